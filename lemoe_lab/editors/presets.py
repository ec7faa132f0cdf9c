"""The editors of the figures: one name, one set of tuned settings.

editor = preset("LEMoE KV anchor, literal")
editor = preset("MoE adaptor", steps=20)      # a quick try: the tuned settings, but for one
PRESETS["GRACE, narrow"]                      # what it is, in a line

Tuned on seed 0 of the Almanac, which no figure reports. Where nothing is set, a method's defaults
are what was tuned.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

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
from .ultra_edit import UltraEdit
from .wise import WISE


class _Preset(NamedTuple):
    kind: type[Editor]
    settings: Mapping[str, object]
    description: str


_KV = {"routing": "kv_anchor"}
_REHEARSED = _KV | {"centre": True, "rehearse_anchors": True}
_SLOW = {"learning_rate": 2e-3}

_PRESETS = {
    "LEMoE scoped": _Preset(
        LEMoE,
        {"routing": "scoped"},
        "an expert per batch, found by the frozen host's hidden state, one anchor per edit",
    ),
    "LEMoE KV anchor": _Preset(
        LEMoE,
        _REHEARSED | {"bypass": True},
        "key-value anchors that rehearse old addresses; unfamiliar inputs bypass the experts",
    ),
    "LEMoE KV anchor, literal": _Preset(
        LEMoE,
        _KV | _SLOW | {"router_learning_rate": 3e-4},
        "the paper's equations as they stand",
    ),
    "LEMoE KV anchor, rehearsed": _Preset(
        LEMoE,
        _REHEARSED,
        "key-value anchors that rehearse old addresses; every input goes to an expert",
    ),
    "LEMoE scoped, one expert": _Preset(
        LEMoE,
        {"routing": "scoped", "insert": False},
        "scoped routing to a single expert, trained on and on",
    ),
    "one expert": _Preset(
        LEMoE,
        _KV | _SLOW | {"insert": False},
        "a single expert for every input, trained on and on",
    ),
    "MoE adaptor": _Preset(MoEAdaptor, {}, "four experts shared by all batches"),
    "FineTune": _Preset(FineTune, {}, "one matrix, inside a norm ball (FT-L)"),
    "FineTuneEWC": _Preset(FineTuneEWC, {}, "one matrix, held by elastic weight consolidation"),
    "LocFT replay": _Preset(LocFT, {}, "one matrix, in passes over all edits so far"),
    "LocFT stream": _Preset(LocFT, {"replay": False}, "one matrix, in passes over the new edits"),
    "UltraEdit": _Preset(UltraEdit, {}, "closed-form steps, tuned for long runs"),
    "UltraEdit, single edits": _Preset(
        UltraEdit,
        UltraEdit.variants["UltraEdit, single edits"],
        "closed-form steps, tuned for one edit on the unedited host",
    ),
    "ROME": _Preset(ROME, {}, "a rank-one update for every edit"),
    "MEMIT": _Preset(MEMIT, {}, "least squares over several layers"),
    "AlphaEdit": _Preset(AlphaEdit, {}, "least squares in a null space, tuned for long runs"),
    "AlphaEdit, single edits": _Preset(
        AlphaEdit,
        AlphaEdit.variants["AlphaEdit, single edits"],
        "least squares in a null space, tuned for one edit on the unedited host",
    ),
    "MEND": _Preset(MEND, {}, "trained editing networks"),
    "GRACE": _Preset(GRACE, {}, "a codebook, its first radius chosen by calibration facts"),
    "GRACE, narrow": _Preset(
        GRACE,
        GRACE.variants["GRACE, narrow"],
        "a codebook with the reference implementation's radius",
    ),
    "DEFER": _Preset(DEFER, {}, "a gate and a side network beside one layer"),
    "WISE": _Preset(WISE, {}, "side memories of one matrix, merged"),
    "WISE, unmerged": _Preset(
        WISE, WISE.variants["WISE, unmerged"], "one shard and a side memory for every batch"
    ),
}

PRESETS: Mapping[str, str] = MappingProxyType(
    {name: known.description for name, known in _PRESETS.items()}
)

# The editors of the notebooks' big tables, in the order of their rows.
COMPARED = tuple(
    name
    for name in _PRESETS
    if name not in ("LEMoE KV anchor, rehearsed", "LEMoE scoped, one expert", "one expert")
    and not name.endswith(", single edits")
)


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
    if name not in _PRESETS:
        raise ConfigError(f"there is no preset {name!r}; the presets are: {'; '.join(_PRESETS)}")
    return _PRESETS[name].kind, dict(_PRESETS[name].settings)
