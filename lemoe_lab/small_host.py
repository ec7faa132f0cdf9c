"""Another address of :mod:`lemoe_lab.embedded.small_host`, which user scripts import from here."""

from .embedded.small_host import train_small_host

__all__ = ["train_small_host"]
