"""How a call that takes the settings of a config is written."""

from __future__ import annotations

from inspect import Parameter, Signature
from types import SimpleNamespace
from typing import get_type_hints

from pydantic import BaseModel


def signature_of(config: type[BaseModel]) -> Signature:
    """Every setting as a keyword with its type, bounds left out, and its default."""
    fields = config.model_fields
    bounded = SimpleNamespace(__annotations__={name: f.annotation for name, f in fields.items()})
    types = get_type_hints(bounded)
    return Signature(
        [
            Parameter(
                name,
                Parameter.KEYWORD_ONLY,
                default=Parameter.empty
                if field.is_required()
                else field.get_default(call_default_factory=True),
                annotation=types[name],
            )
            for name, field in fields.items()
        ]
    )
