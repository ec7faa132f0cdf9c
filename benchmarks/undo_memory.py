"""What undo keeps in memory after many single edits: it grows with their number, not its square.

    python benchmarks/undo_memory.py
    python benchmarks/undo_memory.py --edits 300 3000 --only LEMoE GRACE

Every edit takes one optimiser step and is not measured. Prints for each editor and number of edits
the megabytes that the snapshots hold, those of them that are not the experts', what was estimated
to be held in all, and the seconds of an edit at the beginning and at the end.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields, is_dataclass

import pandas as pd
from torch import Tensor, nn

import lemoe_lab as ll
from lemoe_lab.editors import GRACE, AlphaEdit, Editor, LEMoE, LocFT, MoEAdaptor, preset
from lemoe_lab.memory.estimate import estimate_memory

EDITORS = {
    "LEMoE": lambda: LEMoE(steps=1, intermediate=8),
    "KV anchor": lambda: preset("LEMoE KV anchor", steps=1, intermediate=8),
    "MoE adaptor": lambda: MoEAdaptor(steps=1, intermediate=8),
    "GRACE": lambda: GRACE(steps=1),
    "LocFT": lambda: LocFT(passes=1),
    "AlphaEdit": AlphaEdit,
}
TIMED = 20  # edits at the beginning and at the end


def tensors_in(held: object, seen: set[int]) -> Iterator[Tensor]:
    """All tensors below an object, each once."""
    if id(held) in seen:
        return
    seen.add(id(held))
    if isinstance(held, Tensor):
        yield held
    elif isinstance(held, nn.Module):
        yield from (t for t in (*held.parameters(), *held.buffers()) if id(t) not in seen)
        seen.update(id(t) for t in (*held.parameters(), *held.buffers()))
    elif isinstance(held, dict):
        for value in held.values():
            yield from tensors_in(value, seen)
    elif isinstance(held, list | tuple):
        for value in held:
            yield from tensors_in(value, seen)
    elif is_dataclass(held):
        for field in fields(held):
            if field.name != "earlier":  # a step before, which is in the history itself
                yield from tensors_in(getattr(held, field.name), seen)


def held_bytes(held: object) -> int:
    """Bytes of the memory that all tensors below an object lie in, shared memory once."""
    storages = [tensor.untyped_storage() for tensor in tensors_in(held, set())]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def measure(names: Sequence[str], counts: Iterable[int]) -> pd.DataFrame:
    """One row per editor and number of edits."""
    host, rows = ll.load_host("almanac"), []
    for name in names:
        for count in counts:
            stream = ll.datasets.almanac(edits=count, batch_size=1)
            rows.append({"editor": name, "edits": count} | _run(host, EDITORS[name](), stream))
    return pd.DataFrame(rows)


def _run(host: ll.Host, editor: Editor, stream: ll.EditStream) -> dict[str, float]:
    estimate = estimate_memory(host, editor, stream)
    seconds = []
    editor.attach(host, stream)
    try:
        for batch in stream:
            started = time.perf_counter()
            editor.edit(batch)
            seconds.append(time.perf_counter() - started)
        history = editor.snapshots
        routers = [snapshot.router for snapshot in history if hasattr(snapshot, "router")]
        return {
            "snapshots (MB)": held_bytes(history) / 1e6,
            "of routers (MB)": held_bytes(routers) / 1e6,
            "estimated (MB)": (estimate.held + estimate.routing) / 1e6,
            "first edits (ms)": 1e3 * sum(seconds[:TIMED]) / len(seconds[:TIMED]),
            "last edits (ms)": 1e3 * sum(seconds[-TIMED:]) / len(seconds[-TIMED:]),
        }
    finally:
        editor.detach()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--edits", type=int, nargs="+", default=(300, 3000))
    parser.add_argument("--only", nargs="+", choices=EDITORS, default=("LEMoE", "GRACE"))
    given = parser.parse_args()
    print(measure(given.only, given.edits).round(2).to_string(index=False))


if __name__ == "__main__":
    main()
