"""Panels for notebooks, live in JupyterLab and a picture everywhere else.

ll.widgets.EditStepper(session)               # learn, undo, ask, export
ll.widgets.RoutingInspector(session)          # where prompts go, and what would change it
ll.widgets.OrderPlayground(stream, host)      # orders, batches and what they do
"""

from .inspector.inspector import RoutingInspector
from .playground.playground import OrderPlayground
from .stepper.stepper import EditStepper

__all__ = ["EditStepper", "OrderPlayground", "RoutingInspector"]
