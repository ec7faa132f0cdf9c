"""Another address of :mod:`lemoe_lab.files.run`, which user scripts import from here."""

from .files.run import RunError, RunFolder

__all__ = ["RunError", "RunFolder"]
