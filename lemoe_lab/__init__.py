"""LEMoE Lab: a workbench for lifelong model editing.

import lemoe_lab as ll

host = ll.load_host("almanac")
stream = ll.datasets.almanac(edits=300, batch_size=30, seed=0)
with ll.EditSession(host, ll.editors.LEMoE(), stream) as session:
    session.run()
    ll.plots.immediate_vs_final(ll.probes.forgetting(session))
"""

from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

from . import datasets, editors, metrics, planning, probes, sweeps
from .checking import drop_known
from .edits import CalibrationFact, Edit, EditBatch, EditError, EditStream, LocalityPrompt, Rephrase
from .files.load import load_adaptor
from .files.run import RunError
from .host import Host, load_host
from .memory.estimate import estimate_memory
from .session import EditSession

if TYPE_CHECKING:
    from . import plots, widgets

__all__ = [
    "CalibrationFact",
    "Edit",
    "EditBatch",
    "EditError",
    "EditSession",
    "EditStream",
    "Host",
    "LocalityPrompt",
    "Rephrase",
    "RunError",
    "datasets",
    "drop_known",
    "editors",
    "estimate_memory",
    "load_adaptor",
    "load_host",
    "metrics",
    "planning",
    "plots",
    "probes",
    "sweeps",
    "widgets",
]


def __getattr__(name: str) -> ModuleType:
    """``plots`` and ``widgets`` take a second to import, which only who draws pays."""
    if name in ("plots", "widgets"):
        return import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
