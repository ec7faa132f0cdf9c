"""Sweeps on a real scheduler with two worker processes: nothing lost, nothing computed twice."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import psutil
import pyarrow.parquet as pq
import pytest
import torch
from pandas.testing import assert_frame_equal

import lemoe_lab as ll
from lemoe_lab import sweeps
from lemoe_lab.datasets import data_folder
from lemoe_lab.editors import LEMoE, MoEAdaptor
from lemoe_lab.planning import KMeansOrder, RandomOrder
from lemoe_lab.sweeps.cluster import WorkerHosts
from lemoe_lab.sweeps.store import Store

NOBODY = "tcp://127.0.0.1:1"  # no scheduler listens there
DRAWN = sweeps.AlmanacStream(edits=8, batch_size=4, seed=3)
LONGER = {"steps": 20, "loss_threshold": 0}  # long enough to be interrupted

SWEEP = """
import sys
from lemoe_lab import sweeps
runs = [sweeps.Run.model_validate_json(line) for line in sys.stdin]
sweeps.sweep(runs, sys.argv[1], scheduler=sys.argv[2], progress=False)
"""
WITHOUT_DASK = """
import sys
sys.modules["dask"] = sys.modules["distributed"] = None
from lemoe_lab import sweeps
run = sweeps.Run(editor={"name": "LEMoE"}, stream=sweeps.AlmanacStream(edits=8))
sweeps.sweep([run], sys.argv[1], progress=False)
"""


@pytest.fixture(scope="module")
def cluster():
    """A scheduler and two worker processes on loopback."""
    with sweeps.local_cluster(2) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def edits():
    """Eight edits in two batches that are measured in no time: nothing but their own prompts."""
    stream = DRAWN.drawn
    bare = {"rephrases": (), "locality": ()}
    groups = [[edit.model_copy(update=bare) for edit in batch] for batch in stream]
    return stream.with_groups(groups).model_copy(update={"calibration": stream.calibration[::8]})


def some_runs(host, stream, orders=4, **settings):
    """One run per random order."""
    editor = MoEAdaptor(**{"steps": 3, **settings})
    orders = [RandomOrder(seed) for seed in range(orders)]
    return sweeps.grid(host, editors=[editor], orders=orders, streams=[stream])


def compute(runs, folder, cluster):
    return sweeps.sweep(runs, folder, cluster, progress=False)


@contextmanager
def busy_worker_killed(cluster, folder):
    """Kills one worker that has runs left, once a first one was stored; lists how many were."""
    arrived = []

    def kill():
        while True:
            states = cluster.scheduler.workers
            workers = [w for w in cluster.workers.values() if w.worker_address in states]
            busy = [w for w in workers if states[w.worker_address].processing]
            if files(folder) and busy:
                arrived.append(len(files(folder)))
                os.kill(busy[0].pid, signal.SIGKILL)
                return
            time.sleep(0.01)

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    yield arrived
    killer.join(10)


def files(folder: Path, pattern: str = "finished/*.json") -> list[Path]:
    return sorted(folder.glob(pattern))


@pytest.fixture
def one_thread():
    """This process adds up numbers as the workers do."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def arrivals(monkeypatch):
    """How often each run was stored, by key."""
    counts: Counter[str] = Counter()
    write = Store.write

    def counted(store, run, outcome):
        counts[run.key] += 1
        write(store, run, outcome)

    monkeypatch.setattr(Store, "write", counted)
    return counts


# Every run arrives, once


def test_every_run_arrives_once(host, edits, cluster, arrivals, tmp_path):
    runs = some_runs(host, edits)
    result = compute(runs, tmp_path, cluster)
    assert arrivals == {run.key: 1 for run in runs}
    assert result.runs["status"].eq("finished").all()
    assert result.runs["computed"].all()
    assert result.failures.empty


@pytest.mark.usefixtures("one_thread")
def test_results_are_those_of_the_sessions_themselves(host, edits, cluster, tmp_path):
    lemoe, adaptor = {"steps": 3}, {"steps": 4, "experts": 2}
    runs = sweeps.grid(
        host,
        editors=[LEMoE(**lemoe), MoEAdaptor(**adaptor)],
        orders=[None, KMeansOrder(seed=1)],
        streams=[edits],
    )
    runs += sweeps.grid(host, editors=[MoEAdaptor(**adaptor)], streams=[DRAWN], merged=True)
    result = compute(runs, tmp_path, cluster)

    streams = [edits, KMeansOrder(seed=1).plan(edits, host)]
    sessions = [
        (editor, stream) for stream in streams for editor in (LEMoE(**lemoe), MoEAdaptor(**adaptor))
    ]
    sessions.append((MoEAdaptor(**adaptor), DRAWN.drawn.merged()))
    expected = []
    for editor, stream in sessions:
        with ll.EditSession(host, editor, stream, progress=False) as session:
            session.run()
            expected.append(ll.probes.measurements(session))
    columns = list(expected[0])
    assert_frame_equal(result.measurements[columns], pd.concat(expected, ignore_index=True))
    assert_frame_equal(
        ll.probes.forgetting(result.measurements).drop(columns="run"),
        ll.probes.forgetting(pd.concat(expected)),
    )


def test_worker_that_dies_loses_no_run(host, edits, cluster, arrivals, tmp_path):
    runs = some_runs(host, edits, orders=8, **LONGER)
    with busy_worker_killed(cluster, tmp_path) as arrived_before:
        result = compute(runs, tmp_path, cluster)
    assert 0 < arrived_before[0] < len(runs)
    assert arrivals == {run.key: 1 for run in runs}
    assert result.runs["status"].eq("finished").all()
    assert not result.measurements.duplicated(["key", "step", "edit", "metric", "scorer"]).any()


def test_runs_that_are_equal_are_computed_once_and_shown_under_each_label(
    host, edits, cluster, arrivals, tmp_path
):
    editors = {"one": MoEAdaptor(steps=3), "other": MoEAdaptor(steps=3)}
    runs = sweeps.grid(host, editors=editors, streams=[edits])
    result = compute(runs, tmp_path, cluster)
    assert arrivals.total() == 1
    one, other = (rows for _, rows in result.measurements.groupby("editor"))
    assert (one["editor"].iloc[0], other["editor"].iloc[0]) == ("one", "other")
    assert one["value"].tolist() == other["value"].tolist()


# What a sweep leaves out


def test_repeated_sweep_computes_nothing(host, edits, cluster, arrivals, tmp_path):
    runs = some_runs(host, edits)
    first = compute(runs, tmp_path, cluster)
    arrivals.clear()
    again = compute(runs, tmp_path, NOBODY)
    assert not arrivals
    assert not again.runs["computed"].any()
    assert_frame_equal(again.measurements, first.measurements)


def test_sweep_that_asks_for_more_computes_the_new_runs(host, edits, cluster, arrivals, tmp_path):
    runs = some_runs(host, edits)
    compute(runs[:2], tmp_path, cluster)
    arrivals.clear()
    result = compute(runs, tmp_path, cluster)
    assert set(arrivals) == {run.key for run in runs[2:]}
    assert result.measurements["key"].nunique() == len(runs)


def test_sweep_that_was_killed_computes_what_is_missing(host, edits, cluster, arrivals, tmp_path):
    runs = some_runs(host, edits, orders=6, **LONGER)
    process = subprocess.Popen(
        [sys.executable, "-c", SWEEP, str(tmp_path), cluster.scheduler_address],
        stdin=subprocess.PIPE,
        text=True,
    )
    process.stdin.write("\n".join(run.model_dump_json() for run in runs))
    process.stdin.close()
    while not files(tmp_path) and process.poll() is None:
        time.sleep(0.01)
    process.kill()
    process.wait()
    stored = {path.stem for path in files(tmp_path)}
    assert 0 < len(stored) < len(runs)
    result = compute(runs, tmp_path, cluster)
    assert set(arrivals) == {run.key for run in runs} - stored
    assert result.runs["status"].eq("finished").all()


@pytest.mark.parametrize("damage", ["truncated", "altered", "missing"])
@pytest.mark.parametrize("name", ["measurements/*.parquet", "finished/*.json"])
def test_damaged_result_is_reported_and_computed_again(
    host, edits, cluster, arrivals, tmp_path, name, damage
):
    runs = some_runs(host, edits, orders=2)
    whole = compute(runs, tmp_path, cluster)
    arrivals.clear()
    path = files(tmp_path, name)[0]
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        half = len(content) // 2
        path.write_bytes(
            content[:half] + (b"" if damage == "truncated" else bytes(8) + content[half + 8 :])
        )
    if (damage, path.suffix) == ("missing", ".json"):  # as after a kill: nothing to report
        again = compute(runs, tmp_path, cluster)
    else:
        with pytest.warns(sweeps.SweepWarning, match=path.stem):
            again = compute(runs, tmp_path, cluster)
    assert set(arrivals) == {path.stem}
    assert_frame_equal(again.measurements, whole.measurements)


# Runs that fail


def test_failing_run_is_reported_and_does_not_stop_the_others(host, edits, cluster, tmp_path):
    editors = {"good": MoEAdaptor(steps=3), "bad": MoEAdaptor(layer=99)}
    runs = sweeps.grid(host, editors=editors, orders=[None, RandomOrder(1)], streams=[edits])
    with pytest.warns(sweeps.SweepWarning, match="2 of 4 runs failed"):
        result = compute(runs, tmp_path, cluster)
    assert result.runs.groupby("editor")["status"].unique().str[0].to_dict() == {
        "good": "finished",
        "bad": "failed",
    }
    assert set(result.measurements["editor"]) == {"good"}
    assert result.failures["editor"].tolist() == ["bad", "bad"]
    for text in result.failures["traceback"]:
        assert text.startswith("Traceback")
        assert "layer 99 does not exist" in text


def test_failed_run_is_tried_again_by_the_next_sweep(edits, cluster, tmp_path):
    folder = tmp_path / "host"
    run = sweeps.Run(editor=MoEAdaptor(steps=3), stream=edits, host=str(folder))
    with pytest.warns(sweeps.SweepWarning, match="1 of 1"):
        failed = compute([run], tmp_path / "sweep", cluster)
    assert str(folder) in failed.failures["traceback"].item()
    shutil.copytree(data_folder() / "host", folder)
    result = compute([run], tmp_path / "sweep", cluster)
    assert result.runs["status"].item() == "finished"
    assert result.failures.empty


def test_worker_refuses_a_host_of_other_weights(host, edits, cluster, tmp_path):
    run = sweeps.Run(editor=MoEAdaptor(steps=3), stream=edits, fingerprint="0" * 64)
    with pytest.warns(sweeps.SweepWarning):
        result = compute([run], tmp_path, cluster)
    assert "other weights" in result.failures["traceback"].item()


def test_run_that_no_worker_survives_is_reported(host, edits, cluster, tmp_path, monkeypatch):
    monkeypatch.setattr(cluster.scheduler, "allowed_failures", 0)
    runs = some_runs(host, edits, orders=8, **LONGER)
    with (
        busy_worker_killed(cluster, tmp_path),
        pytest.warns(sweeps.SweepWarning, match="of 8 runs failed"),
    ):
        result = compute(runs, tmp_path, cluster)
    assert set(result.runs["status"]) == {"finished", "failed"}
    assert result.failures["traceback"].str.contains("KilledWorker").all()


# Keys


BASE = sweeps.Run(editor=MoEAdaptor(), stream=DRAWN)
CHANGES = {
    "setting": {"editor": MoEAdaptor(steps=7)},
    "seed of the editor": {"editor": MoEAdaptor(seed=1)},
    "editor": {"editor": LEMoE()},
    "planner": {"planner": RandomOrder()},
    "seed of the planner": {"planner": RandomOrder(1)},
    "edits": {"stream": DRAWN.model_copy(update={"seed": 4})},
    "batches": {"stream": DRAWN.model_copy(update={"batch_size": 2})},
    "batch mode": {"merged": True},
    "metrics": {"keep": ("reliability",)},
    "probes": {"probes": ("similarity",)},
    "host": {"host": "another"},
    "weights of the host": {"fingerprint": "0" * 64},
    "precision": {"dtype": "bfloat16"},
}


def test_key_changes_with_everything_that_decides_the_result():
    keys = {name: BASE.model_copy(update=change).key for name, change in CHANGES.items()}
    assert len({BASE.key, *keys.values()}) == 1 + len(CHANGES)


def test_key_does_not_change_with_the_label_or_with_how_the_run_is_written():
    same = [
        {"label": "ours"},
        {"editor": {"name": "MoEAdaptor", "settings": {"experts": 4}}},
        {"stream": DRAWN.drawn},
        {"keep": ("locality", "generality", "reliability")},
    ]
    assert {BASE.model_copy(update=change).key for change in same} == {BASE.key}


@pytest.mark.parametrize("stream", [DRAWN, DRAWN.drawn], ids=["described", "given"])
def test_run_is_the_same_after_a_journey_as_plain_data(stream):
    run = sweeps.Run(editor=LEMoE(steps=3), planner=KMeansOrder(seed=2), stream=stream, label="x")
    arrived = sweeps.Run.model_validate_json(run.model_dump_json())
    assert arrived == run
    assert arrived.key == run.key


# Grids


def test_grid_has_a_run_for_every_combination(host):
    runs = sweeps.grid(
        host,
        editors=[MoEAdaptor(), LEMoE()],
        orders=[None, RandomOrder(0), RandomOrder(1)],
        seeds=[1, 2],
        streams=[sweeps.AlmanacStream(edits=8, batch_size=4), sweeps.AlmanacStream(edits=4)],
    )
    assert len({run.key for run in runs}) == 2 * 3 * 2 * 2
    assert {run.given.seed for run in runs} == {1, 2}
    assert {run.fingerprint for run in runs} == {host.fingerprint()}


def test_runs_with_the_same_name_are_numbered(host, edits, tmp_path):
    runs = some_runs(host, edits, orders=3)
    table = sweeps.collect(runs, tmp_path).runs
    assert table["run"].tolist() == [0, 1, 2]
    assert table["planner"].tolist() == [f"RandomOrder(seed={seed})" for seed in range(3)]
    assert table["status"].eq("missing").all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"editor": {"name": "Lemoe"}}, "it has .*LEMoE, .*MoEAdaptor"),
        ({"editor": {"name": "LEMoE", "settings": {"stesp": 3}}}, "stesp"),
        ({"planner": {"name": "KMeans"}}, "KMeansOrder"),
        ({"planner": {"name": "RandomOrder", "settings": {"sede": 3}}}, "sede"),
        ({"keep": ("reliabilty",)}, "known are reliability"),
        ({"probes": ("order_summary",)}, "known are similarity"),
        ({"stream": {"edits": 0}}, "edits"),
    ],
)
def test_impossible_run_fails_when_it_is_made(change, message):
    with pytest.raises(ValueError, match=message):
        BASE.model_copy(update=change)


def test_given_stream_cannot_be_drawn_with_other_seeds(host, edits):
    with pytest.raises(ValueError, match="its own seed"):
        sweeps.grid(host, editors=[LEMoE()], streams=[edits], seeds=[1, 2])


def test_grid_of_a_host_that_is_being_edited_is_refused(host, edits):
    with (
        ll.EditSession(host, MoEAdaptor(steps=3), edits, progress=False),
        pytest.raises(RuntimeError, match="close that session"),
    ):
        sweeps.grid(host, editors=[LEMoE()], streams=[edits])


# What is stored


@pytest.mark.usefixtures("one_thread")
def test_probe_tables_are_those_of_the_session(host, edits, cluster, tmp_path):
    runs = sweeps.grid(
        host,
        editors=[MoEAdaptor(steps=3)],
        streams=[edits],
        probes=["routing", "similarity"],
        keep=["reliability"],
    )
    result = compute(runs, tmp_path, cluster)
    with ll.EditSession(host, MoEAdaptor(steps=3), edits, progress=False) as session:
        session.run()
        expected = ll.probes.routing(session)
        order = ll.probes.order(session)
    assert_frame_equal(result.tables["routing"][list(expected)], expected)
    stored = ll.probes.order(result.measurements, result.tables["similarity"])
    assert_frame_equal(stored, order)


def test_only_the_wanted_metrics_are_kept(host, cluster, tmp_path):
    runs = sweeps.grid(host, editors=[MoEAdaptor(steps=3)], streams=[DRAWN], keep=["locality"])
    assert set(compute(runs, tmp_path, cluster).measurements["metric"]) == {"locality"}


def test_results_are_one_parquet_dataset_with_a_row_group_per_run(host, edits, cluster, tmp_path):
    runs = some_runs(host, edits)
    result = compute(runs, tmp_path, cluster)
    paths = files(tmp_path, "measurements/*.parquet")
    assert [pq.ParquetFile(path).num_row_groups for path in paths] == [1] * len(runs)
    dataset = pd.read_parquet(tmp_path / "measurements")
    assert (
        dataset.groupby("key").size().to_dict()
        == result.measurements.groupby("key").size().to_dict()
    )
    assert {path.suffix for path in files(tmp_path, "**/*") if path.is_file()} == {
        ".json",
        ".parquet",
    }


# Where it runs


def test_local_cluster_is_reachable_from_this_machine_only(cluster):
    processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
    listening = [
        connection.laddr.ip
        for process in processes
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert listening
    assert set(listening) == {"127.0.0.1"}


def test_workers_are_two_processes_of_one_torch_thread(cluster):
    from distributed import Client

    with Client(cluster, set_as_default=False) as client:
        assert list(client.run(torch.get_num_threads).values()) == [1, 1]
        assert os.getpid() not in client.run(os.getpid).values()
        assert len(set(client.run(os.getpid).values())) == 2


def test_worker_loads_a_host_once_and_anew_after_a_failure():
    hosts = WorkerHosts()
    with hosts.lent(BASE) as first:
        pass
    with pytest.raises(KeyboardInterrupt), hosts.lent(BASE) as second:
        raise KeyboardInterrupt
    with hosts.lent(BASE) as third:
        pass
    assert second is first
    assert third is not first


def test_sweep_without_dask_names_what_to_install(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_DASK, str(tmp_path)], capture_output=True, text=True
    )
    assert "ImportError" in done.stderr
    assert "lemoe-lab[sweeps]" in done.stderr
