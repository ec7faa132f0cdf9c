"""Editors by name: their classes, and the presets that stand in them.

editor = preset("LEMoE KV anchor, literal")
editor = preset("MoE adaptor", steps=20)      # a quick try: the tuned settings, but for one
PRESETS["GRACE, narrow"]                      # what it is, in a line
editor = by_name("GRACE")(epsilon=1.0)        # as a saved run names it

Tuned on seed 0 of the Almanac, which no figure reports. Where nothing is set, a method's defaults
are what was tuned. Editors that are defined elsewhere are found by name as well.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from .alphaedit import AlphaEdit
from .base import ConfigError, Editor
from .defer import DEFER
from .fine_tune import FineTune
from .fine_tune_ewc import FineTuneEWC
from .grace import GRACE
from .lemoe import LEMoE
from .loc_ft import LocFT
from .memit import MEMIT
from .mend import MEND
from .moe_adaptor import MoEAdaptor
from .rome import ROME
from .shared.preset import Preset
from .ultra_edit import UltraEdit
from .wise import WISE

# The order of tables and panels; editors that are defined elsewhere come after these.
_ROWS = (LEMoE, MoEAdaptor, FineTune, FineTuneEWC, LocFT, UltraEdit, ROME, MEMIT, AlphaEdit, MEND,
         GRACE, DEFER, WISE)  # fmt: skip


def by_name(name: str) -> type[Editor]:
    """The editor class of this name, wherever it was defined.

    Raises
    ------
    ConfigError
        If there is none.
    """
    if name in Editor.known:
        return Editor.known[name]
    raise ConfigError(
        f"this LEMoE Lab knows no editor {name!r}; it has {', '.join(Editor.known)}. If it is your "
        "own, first import the file that defines it; if not, install a newer LEMoE Lab"
    )


def _presets() -> dict[str, tuple[type[Editor], Preset]]:
    """All presets by name, with their editors; the first one has a name that two would have."""
    found: dict[str, tuple[type[Editor], Preset]] = {}
    for kind in dict.fromkeys((*_ROWS, *Editor.known.values())):
        for name, preset in kind.presets.items():
            found.setdefault(name, (kind, preset))
    return found


class _Descriptions(Mapping[str, str]):
    """What every preset is, in a line, also of editors that are yet to be defined."""

    def __getitem__(self, name: str) -> str:
        return _presets()[name][1].description

    def __iter__(self) -> Iterator[str]:
        return iter(_presets())

    def __len__(self) -> int:
        return len(_presets())

    def __repr__(self) -> str:
        return repr(dict(self))


PRESETS: Mapping[str, str] = _Descriptions()

# The editors of the notebooks' big tables, in the order of their rows.
COMPARED = tuple(name for kind in _ROWS for name, preset in kind.presets.items() if preset.compared)


def preset(name: str, **overrides: object) -> Editor:
    """A new editor with the settings that figures show under this name, ``overrides`` on top.

    Raises
    ------
    ConfigError
        For a name that :data:`PRESETS` lacks, or settings that the editor cannot take.
    """
    kind, settings = preset_settings(name)
    return kind(**settings | overrides)


def preset_settings(name: str) -> tuple[type[Editor], dict[str, object]]:
    """The class behind a preset, and the settings that differ from its defaults.

    Raises
    ------
    ConfigError
        For a name that :data:`PRESETS` lacks.
    """
    if name not in PRESETS:
        raise ConfigError(f"there is no preset {name!r}; the presets are: {'; '.join(PRESETS)}")
    kind, found = _presets()[name]
    return kind, dict(found.settings)


def preset_colours() -> dict[str, str]:
    """The colours in figures of all presets that name one."""
    return {name: found.colour for name, (_, found) in _presets().items() if found.colour}
