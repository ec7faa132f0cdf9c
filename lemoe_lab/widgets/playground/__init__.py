"""Try orders of the same edits."""

from .playground import OrderPlayground

__all__ = ["OrderPlayground"]
