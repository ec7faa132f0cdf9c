"""Sweeps: grids of independent sessions on Dask, each computed once and kept.

    runs = sweeps.grid(
        host,
        editors=[MoEAdaptor(), LEMoE()],
        orders=[None, KMeansOrder(), *(RandomOrder(seed) for seed in range(18))],
        seeds=[1, 2, 3],
        streams=[sweeps.AlmanacStream(edits=300, batch_size=30)],
        probes=["similarity"],
    )
    result = sweeps.sweep(runs, "runs/orders")    # two worker processes on this machine
    probes.forgetting(result.measurements)
    probes.order(result.measurements, result.tables["similarity"])
    result.failures                               # with tracebacks; the next sweep tries them again

A sweep that was interrupted, or that asks for more, computes only what its folder lacks. In a
script call it under ``if __name__ == "__main__":``, for worker processes import the script.
"""

from .cluster import local_cluster, sweep
from .runs import AlmanacStream, Choice, Run, execute, grid
from .store import SweepResult, SweepWarning, collect

__all__ = [
    "AlmanacStream",
    "Choice",
    "Run",
    "SweepResult",
    "SweepWarning",
    "collect",
    "execute",
    "grid",
    "local_cluster",
    "sweep",
]
