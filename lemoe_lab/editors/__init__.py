"""Editing methods, one file each, behind one base class."""

from .alphaedit import AlphaEdit, AlphaEditConfig
from .base import ConfigError, Editor, EditorConfig
from .defer import DEFER, DEFERConfig
from .fine_tune import FineTune, FineTuneConfig
from .fine_tune_ewc import FineTuneEWC, FineTuneEWCConfig
from .grace import GRACE, GRACEConfig
from .lemoe import LEMoE, LEMoEConfig
from .loc_ft import LocFT, LocFTConfig
from .memit import MEMIT, MEMITConfig
from .mend import MEND, MENDConfig
from .moe_adaptor import MoEAdaptor, MoEAdaptorConfig
from .presets import COMPARED, PRESETS, by_name, preset, preset_colours, preset_settings
from .rome import ROME, ROMEConfig
from .shared.footprint import Footprint, Workload
from .shared.preset import Preset
from .ultra_edit import UltraEdit, UltraEditConfig
from .wise import WISE, WISEConfig

__all__ = [
    "COMPARED",
    "DEFER",
    "GRACE",
    "MEMIT",
    "MEND",
    "PRESETS",
    "ROME",
    "WISE",
    "AlphaEdit",
    "AlphaEditConfig",
    "ConfigError",
    "DEFERConfig",
    "Editor",
    "EditorConfig",
    "FineTune",
    "FineTuneConfig",
    "FineTuneEWC",
    "FineTuneEWCConfig",
    "Footprint",
    "GRACEConfig",
    "LEMoE",
    "LEMoEConfig",
    "LocFT",
    "LocFTConfig",
    "MEMITConfig",
    "MENDConfig",
    "MoEAdaptor",
    "MoEAdaptorConfig",
    "Preset",
    "ROMEConfig",
    "UltraEdit",
    "UltraEditConfig",
    "WISEConfig",
    "Workload",
    "by_name",
    "preset",
    "preset_colours",
    "preset_settings",
]
