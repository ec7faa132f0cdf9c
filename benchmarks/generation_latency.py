"""Times generation with 1, 10 and 100 experts on the embedded host against the bare host.

    python benchmarks/generation_latency.py

Prompts that go to experts, to as many different ones as there are, and prompts that take the plain
FFN; one at a time and 16 together. Bare and edited host decode the same number of tokens in turn;
a ratio is that of the medians. Aim: at most 1.10 with 100 experts.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Sequence
from contextlib import nullcontext

import pandas as pd

import lemoe_lab as ll
from lemoe_lab.adaptor.mixture import BypassMoE
from lemoe_lab.adaptor.routing import BYPASS
from lemoe_lab.host import Host

COLUMNS = ["experts", "prompts", "together", "used", "bare (ms)", "edited (ms)", "ratio"]


def measure(
    experts: Sequence[int], together: Sequence[int], tokens: int, repetitions: int, seed: int
) -> pd.DataFrame:
    """:func:`latency` on the embedded host, every expert having learned three edits."""
    host = ll.load_host("almanac")
    stream = ll.datasets.almanac(edits=3 * max(experts), batch_size=3, seed=seed)
    editor = ll.editors.LEMoE(steps=3, seed=seed)
    return latency(host, editor, stream, experts, together, tokens, repetitions)


def latency(
    host: Host,
    editor: ll.editors.LEMoE,
    stream: ll.EditStream,
    experts: Sequence[int],
    together: Sequence[int],
    tokens: int,
    repetitions: int,
) -> pd.DataFrame:
    """One row per number of experts, kind of prompts, and number of prompts decoded together.

    Columns: ``experts``, ``prompts`` (where they go), ``together``, ``used`` (how many experts
    answer them), medians of the time for one token, and their ratio. The editor learns one batch of
    the stream for every expert. A host that has no prompts of a kind has no rows of it.
    """
    editor.attach(host, stream)
    try:
        adaptors, layer = grown(editor, stream, experts), editor.layer
    finally:
        editor.detach()
    rows = []
    for count, adaptor in adaptors.items():
        for kind, prompts in prompts_by_route(host, adaptor, layer, stream).items():
            for size in together:
                chosen = [prompts[i % len(prompts)] for i in range(size)]
                used = len(set(routes_of(host, adaptor, layer, chosen)) - {BYPASS})
                bare, edited = compared(host, adaptor, layer, chosen, tokens, repetitions)
                times = 1000 * bare / tokens, 1000 * edited / tokens
                rows.append((count, kind, size, used, *times, edited / bare))
    return pd.DataFrame(rows, columns=COLUMNS)


def grown(
    editor: ll.editors.LEMoE, stream: ll.EditStream, experts: Sequence[int]
) -> dict[int, BypassMoE]:
    """The editor's adaptor, to be attached anywhere, as it was after so many batches."""
    adaptors = {}
    for batch in stream.batches[: max(experts)]:
        editor.edit(batch)
        if editor.steps in experts:
            adaptor = BypassMoE(copy.deepcopy(editor.adaptor.router), editor.adaptor.scale)
            adaptor.experts.extend(editor.adaptor.experts)
            adaptors[editor.steps] = adaptor
    return adaptors


def routes_of(host: Host, adaptor: BypassMoE, layer: int, prompts: Sequence[str]) -> list[int]:
    """The expert of every prompt."""
    return adaptor.router.route(host.prompt_states(prompts, layer)).expert[:, 0].tolist()


def prompts_by_route(
    host: Host, adaptor: BypassMoE, layer: int, stream: ll.EditStream
) -> dict[str, list[str]]:
    """Prompts that go to experts, one edit's of every batch, and prompts that take the FFN."""
    batches = stream.batches[: len(adaptor.experts)]
    asked = {
        "to experts": [batch.edits[0].prompt for batch in batches],
        "bypass": [prompt.prompt for prompt in batches[0].edits[0].locality],
    }
    found = {}
    for kind, prompts in asked.items():
        routes = routes_of(host, adaptor, layer, prompts)
        fitting = [
            p for p, r in zip(prompts, routes, strict=True) if (r == BYPASS) == (kind == "bypass")
        ]
        if fitting:
            found[kind] = fitting
    return found


def compared(
    host: Host,
    adaptor: BypassMoE,
    layer: int,
    prompts: Sequence[str],
    tokens: int,
    repetitions: int,
) -> tuple[float, float]:
    """Median seconds to decode so many tokens, by the bare and by the edited host."""
    padded = host.tokenizer(list(prompts), padding=True, padding_side="left", return_tensors="pt")
    inputs = {name: padded[name].to(host.device) for name in ("input_ids", "attention_mask")}

    def seconds(edited: bool) -> float:
        with adaptor.attach(host, layer) if edited else nullcontext():
            started = time.perf_counter()
            output = host.model.generate(
                **inputs,
                min_new_tokens=tokens,
                max_new_tokens=tokens,
                do_sample=False,
                pad_token_id=host.tokenizer.pad_token_id,
            )
            output.cpu()  # waits for an accelerator
            return time.perf_counter() - started

    seconds(edited=False), seconds(edited=True)  # warms up
    found: dict[bool, list[float]] = {False: [], True: []}
    for repetition in range(repetitions):
        for edited in (False, True) if repetition % 2 else (True, False):
            found[edited].append(seconds(edited))
    return statistics.median(found[False]), statistics.median(found[True])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--experts", type=int, nargs="+", default=[1, 10, 100])
    parser.add_argument("--together", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--repetitions", type=int, default=30)
    parser.add_argument("--seed", type=int, default=1)
    table = measure(**vars(parser.parse_args()))
    print(table.round(2).to_string(index=False))


if __name__ == "__main__":
    main()
