"""Numbers that are equal for equal prompts and targets, on any machine, and tell nobody the text.

    prompt_numbers(host, batch)          # (n,) int64
    number_of(host.encode(prompt, target).target)

In low precision a prompt's hidden state hangs on what it is batched with, so that nearness cannot
tell whether two edits have one prompt.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

from ..edits import EditBatch, normalise
from .model import Host


def number_of(tokens: Sequence[int]) -> int:
    """A number from 1 to 2**56 for token ids."""
    return 1 + int.from_bytes(hashlib.sha256(repr(tuple(tokens)).encode()).digest()[:7], "big")


def prompt_numbers(host: Host, batch: EditBatch) -> Tensor:
    """Numbers (n,) of the prompts of a batch; upper case, blanks and final marks do not count.

    So prompts are equal here where :attr:`~lemoe_lab.edits.EditStream.superseded` has them equal,
    and where the tokenizer sees no difference.
    """
    texts = [normalise(edit.prompt) or edit.prompt for edit in batch]
    numbers = [number_of(host.tokenizer(text)["input_ids"]) for text in texts]
    return torch.tensor(numbers, device=host.device)
