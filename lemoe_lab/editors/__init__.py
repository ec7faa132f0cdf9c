"""Editing methods, one file each, behind one base class."""

from .base import ConfigError, Editor, EditorConfig
from .lemoe import LEMoE, LEMoEConfig
from .moe_adaptor import MoEAdaptor, MoEAdaptorConfig

__all__ = [
    "ConfigError",
    "Editor",
    "EditorConfig",
    "LEMoE",
    "LEMoEConfig",
    "MoEAdaptor",
    "MoEAdaptorConfig",
]
