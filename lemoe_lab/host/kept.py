"""What is worked out once for an owner: kept on the owner itself, and gone with it.

    answers = cached_on(host, ("base answers", host.fingerprint()), dict)
    space = cached_on(host, ("scoped space", *settings), lambda: fit_space(host, settings))

A key begins with the name of what is kept, and holds all that decides the value.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import TypeVar

ATTRIBUTE = "_lemoe_lab_kept"

Value = TypeVar("Value")


class Kept(dict):
    """Values by key; a deep copy or a pickle of the owner starts with none."""

    def __reduce__(self) -> tuple:
        return Kept, ()


def cached_on(owner: object, key: Hashable, make: Callable[[], Value]) -> Value:
    """What the owner keeps under ``key``; ``make`` is called if there is nothing yet.

    Callers share the value. If ``make`` raises, nothing is kept.
    """
    kept = vars(owner).setdefault(ATTRIBUTE, Kept())
    if key not in kept:
        kept[key] = make()
    return kept[key]
