"""See where prompts go, why, and what would send them elsewhere."""

from .inspector import RoutingInspector

__all__ = ["RoutingInspector"]
