"""Runs on Dask: worker processes that compute, one process that stores what arrives."""

from __future__ import annotations

import logging
import threading
import time
import traceback
import warnings
from collections.abc import Iterable, Iterator
from concurrent.futures import CancelledError
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any
from uuid import uuid4

import torch
from tqdm.auto import tqdm
from transformers.utils.logging import disable_progress_bar

from ..host import Host, load_host
from .runs import Run, execute
from .store import Outcome, Store, SweepResult, SweepWarning, collect

LOOPBACK = "127.0.0.1"
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")


def sweep(
    runs: Iterable[Run],
    folder: str | Path,
    scheduler: Any = None,
    workers: int = 2,
    progress: bool = True,
) -> SweepResult:
    """Compute the runs that ``folder`` lacks, store each as it arrives, and return all of them.

    A run that fails does not stop the others: it is stored with its traceback, and the next sweep
    tries it again. The runs of a worker that dies go to another one.

    Parameters
    ----------
    runs
        What :func:`grid` returns, or any list of :class:`Run`. Equal runs are computed once.
    folder
        Where results are kept; sweeps that share runs may share a folder, one after the other.
    scheduler
        The address of a Dask scheduler, or a Dask cluster object. Its workers need this library,
        and one thread each is best: a process computes one run at a time. None starts worker
        processes on this machine, which only this machine can reach.
    workers
        How many of these.
    progress
        Show how many runs are done, and how long the rest may take.

    Raises
    ------
    ImportError
        If Dask is not installed.
    RunError
        If a result cannot be written.

    Warns
    -----
    SweepWarning
        If runs failed, or stored results are damaged.
    """
    runs = list(runs)
    if not runs:
        raise ValueError("no run to compute; make some with sweeps.grid(...)")
    store = Store(folder)
    distinct = {run.key: run for run in runs}
    missing = [run for run in distinct.values() if store.read(run) is None]
    failed = 0
    with tqdm(
        total=len(distinct),
        initial=len(distinct) - len(missing),
        desc="sweep",
        unit="run",
        disable=not progress,
    ) as bar:
        for run, outcome in arriving(missing, scheduler, workers):
            store.write(run, outcome)
            failed += outcome.tables is None
            bar.set_postfix({"failed": failed} if failed else {}, refresh=False)
            bar.update()
    if failed:
        warnings.warn(
            f"{failed} of {len(distinct)} runs failed; result.failures has their tracebacks, and "
            "the next sweep tries them again",
            SweepWarning,
            stacklevel=2,
        )
    result = collect(runs, folder)
    result.runs["computed"] = result.runs["key"].isin([run.key for run in missing])
    return result


@contextmanager
def local_cluster(workers: int = 2) -> Iterator[Any]:
    """A Dask cluster of worker processes of one thread, on this machine and for it alone.

    :func:`sweep` makes its own; several sweeps in a row save time by sharing one.
    """
    distributed = _distributed()
    import dask

    settings = {
        # Left alone, Dask has malloc return memory at once, and torch drowns in page faults.
        "distributed.nanny.pre-spawn-environ": ONE_THREAD,
        # It looks at the stack a hundred times a second, for a dashboard that is not there.
        "distributed.worker.profile.enabled": False,
    }
    with dask.config.set(settings):
        cluster = distributed.LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            processes=True,
            host=LOOPBACK,
            dashboard_address=None,
            # Its HTTP server has no dashboard.
            scheduler_kwargs={"dashboard_address": f"{LOOPBACK}:0"},
            # With a limit Dask writes pickles to the disk and restarts big workers.
            memory_limit=None,
            env=ONE_THREAD,
            # What matters fails a run and is in its outcome; workers that are told to go log more.
            silence_logs=logging.CRITICAL,
        )
    with cluster:
        yield cluster


def arriving(
    runs: list[Run], scheduler: Any = None, workers: int = 2
) -> Iterator[tuple[Run, Outcome]]:
    """Every run with its outcome, once, in the order in which they finish."""
    if not runs:
        return
    distributed = _distributed()
    with ExitStack() as stack:
        if scheduler is None:
            scheduler = stack.enter_context(local_cluster(min(workers, len(runs))))
        client = stack.enter_context(distributed.Client(scheduler, set_as_default=False))
        # Dask remembers results by name: one that is used once never finds another sweep's.
        name = f"lemoe-run-{uuid4().hex}"
        waiting = {
            client.submit(compute, run.model_dump(mode="json"), run.key, key=(name, number)): run
            for number, run in enumerate(runs)
        }
        for future in distributed.as_completed(list(waiting), loop=client.loop):
            yield waiting.pop(future), _outcome(future)


def _outcome(future: Any) -> Outcome:
    try:
        return future.result()
    except (Exception, CancelledError) as error:  # Dask's own: compute returns what it meets
        return Outcome(float("nan"), traceback="".join(traceback.format_exception(error)))


def _distributed() -> ModuleType:
    try:
        import distributed
    except ImportError as error:
        raise ImportError(
            "sweeps run on Dask, which is not installed here: pip install 'lemoe-lab[sweeps]'"
        ) from error
    return distributed


# In the worker processes


def compute(description: dict, key: str) -> Outcome:
    """One run on a Dask worker; whatever goes wrong is part of the outcome."""
    torch.set_num_threads(1)
    disable_progress_bar()  # of loading weights: nobody looks at a worker's terminal
    started = time.perf_counter()
    tables, problem = None, ""
    try:
        run = Run.model_validate(description)
        if run.key != key:
            raise RuntimeError(
                f"this worker's lemoe-lab ({version('lemoe-lab')}) or its Almanac is not that of "
                "the process that started the sweep; install the same version on both"
            )
        with _hosts_of_this_worker().lent(run) as host:
            tables = execute(run, host)
    except Exception:
        problem = traceback.format_exc()
    return Outcome(time.perf_counter() - started, tables, problem)


class WorkerHosts:
    """The hosts that a worker process has loaded; one run at a time borrows one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loaded: dict[tuple, Host] = {}

    @contextmanager
    def lent(self, run: Run) -> Iterator[Host]:
        """The host of a run. It is kept only if the run ends well, else it is loaded anew."""
        wanted = (run.host, run.device, run.dtype)
        kept_as = (*wanted, *sorted(run.encoding.items()))
        with self._lock:
            host = self._loaded.pop(kept_as, None) or load_host(*wanted, **run.encoding)
            if run.fingerprint not in (None, host.fingerprint()):
                raise RuntimeError(
                    f"the host {run.host!r} has other weights on this worker than where the sweep "
                    "was started; give both the same files"
                )
            yield host
            self._loaded[kept_as] = host


def _hosts_of_this_worker() -> WorkerHosts:
    worker = _distributed().get_worker()
    return vars(worker).setdefault("lemoe_lab_hosts", WorkerHosts())
