"""LEMoE Lab: a workbench for lifelong model editing.

import lemoe_lab as ll

host = ll.load_host("almanac")
stream = ll.datasets.almanac(edits=300, batch_size=30, seed=0)
with ll.EditSession(host, ll.editors.LEMoE(), stream) as session:
    session.run()
    ll.plots.immediate_vs_final(ll.probes.forgetting(session))
"""

from . import datasets, editors, metrics, planning, plots, probes, sweeps, widgets
from .checking import drop_known
from .edits import CalibrationFact, Edit, EditBatch, EditError, EditStream, LocalityPrompt, Rephrase
from .files.load import load_adaptor
from .files.run import RunError
from .host import Host, load_host
from .memory.estimate import estimate_memory
from .session import EditSession

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
