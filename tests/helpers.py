"""What tests compare: bytes of modules, logits of prompts, traces on the host."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

UNRELATED = ["The quiet cat waited behind", "It rained in the garden, and"]


def digest(module: torch.nn.Module) -> str:
    """A hash of every parameter and buffer."""
    state = sorted(module.state_dict().items())
    return hashlib.sha256(b"".join(t.numpy().tobytes() for _, t in state)).hexdigest()


def logits(host, prompts: list[str]) -> list[torch.Tensor]:
    """Logits (1, L, V) of every prompt on its own."""
    with torch.no_grad():
        inputs = [torch.tensor([host.encode_prompt(prompt)]) for prompt in prompts]
        return [host.model(input_ids=ids).logits for ids in inputs]


def same(first: list[torch.Tensor], second: list[torch.Tensor]) -> bool:
    """Whether two lists of tensors are equal bit for bit."""
    return len(first) == len(second) and all(map(torch.equal, first, second))


def prompts_of(stream) -> list[str]:
    return [edit.prompt for edit in stream.edits]


def traces(host) -> list:
    """Everything an editor could leave behind: modules, their attributes, hooks, forwards."""
    modules = [
        (name, type(module), set(vars(module)), dict(module._forward_hooks),
         dict(module._forward_pre_hooks), module.forward)
        for name, module in host.model.named_modules()
    ]  # fmt: skip
    return [*modules, dict(vars(host))]


@contextmanager
def attached(editor, host, stream, batches: int = 0) -> Iterator:
    """The editor on the host after the first batches of a stream."""
    editor.attach(host, stream)
    try:
        for batch in stream.batches[:batches]:
            editor.edit(batch)
        yield editor
    finally:
        editor.detach()


def loss_of(host, edits: Sequence) -> torch.Tensor:
    """(1/n) sum_i -(1/|y_i|) log p(y_i | x_i), one edit after another through the whole model."""
    losses = []
    for edit in edits:
        sequence = host.encode(edit.prompt, edit.target)
        ids = torch.tensor([sequence.prompt + sequence.target])
        log_p = host.model(input_ids=ids).logits[0].log_softmax(-1)
        places = torch.arange(len(sequence.prompt), len(sequence))
        losses.append(-log_p[places - 1, ids[0, places]].mean())
    return torch.stack(losses).mean()


def spoil(path: Path, damage: str) -> None:
    """Leave a file ``"truncated"``, ``"altered"`` at its end, or ``"missing"``."""
    content = path.read_bytes()
    if damage == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "altered":
        path.write_bytes(content[:-8] + bytes(8))
    else:
        path.unlink()


def drawn_elsewhere(call: str) -> str:
    """A stream of ``datasets`` as JSON, drawn in another process with another hash seed."""
    script = f"from lemoe_lab import datasets; print(datasets.{call}.model_dump_json())"
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONHASHSEED": "1"},
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()
