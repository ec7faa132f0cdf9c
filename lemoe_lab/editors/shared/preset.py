"""A preset: settings of an editor under a name of their own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Preset:
    """Tuned settings of an editor, as figures, notebooks, panels and benchmarks know them.

    Parameters
    ----------
    description
        What it is, in a line.
    settings
        What differs from the defaults.
    colour
        In all figures, as ``"#rrggbb"``; None: one of a palette, always the same for a name.
    compared
        Whether it is a row of the notebooks' big tables.
    """

    description: str
    settings: Mapping[str, object] = field(default_factory=dict)
    colour: str | None = None
    compared: bool = True
