"""Step through the edits of a session, live."""

from .stepper import EditStepper

__all__ = ["EditStepper"]
