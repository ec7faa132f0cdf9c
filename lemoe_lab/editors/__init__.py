"""Editing methods, one file each, behind one base class."""

from .base import ConfigError, Editor, EditorConfig
from .lemoe import LEMoE, LEMoEConfig

__all__ = ["ConfigError", "Editor", "EditorConfig", "LEMoE", "LEMoEConfig"]
