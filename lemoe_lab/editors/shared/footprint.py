"""What a run asks of an editor's memory, and what the editor says it needs, from shapes alone."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from ...edits import Edit, EditStream
from ...host import Host
from ...host.feed_forward import linears, sizes, standalone

SAMPLE = 16  # edits that stand for all questions
FLOAT32, FLOAT64 = 4, 8  # bytes
ANCHOR = 3 * 8  # bytes that are known of an anchor beside its place
TRAINED = 4  # for each trained number: gradient, two moments of Adam, and what it computes with


@dataclass(frozen=True)
class Workload:
    """What memory depends on in a stream, its texts being those of the largest batch.

    ``edits`` in all, ``batch_size`` of the largest batch, ``tokens`` of the longest edit with its
    target, ``target`` of the longest target; ``questions`` asked for an edit on average and
    ``asked`` tokens of the longest one, judged by the first few edits.
    """

    edits: int
    batches: int
    batch_size: int
    tokens: int
    target: int
    questions: float
    asked: int

    @classmethod
    def of(cls, host: Host, stream: EditStream) -> Workload:
        """Count and tokenise; raises :class:`~lemoe_lab.edits.EditError` as learning would."""
        largest = max(stream, key=len)
        sequences = [host.encode(edit.prompt, edit.target) for edit in largest]
        some = largest.edits[:SAMPLE]
        asked = [
            len(host.encode(prompt, target or edit.target, cut=target is None))
            for edit in some
            for prompt, target in _questions(edit)
        ]
        return cls(
            edits=len(stream.edits),
            batches=len(stream),
            batch_size=len(largest),
            tokens=max(map(len, sequences)),
            target=max(len(sequence.target) for sequence in sequences),
            questions=len(asked) / len(some),
            asked=max(asked),
        )

    def anchors(self, width: int, trained: int) -> float:
        """Bytes of an anchor of this width for every edit, and of what every batch trains.

        There is room for twice as many anchors, and the steps hold them once more.
        """
        return 3 * self.edits * (width * FLOAT32 + ANCHOR) + self.batches * trained * FLOAT32

    def with_batch_size(self, batch_size: int) -> Workload:
        """The same edits in other batches."""
        batches = math.ceil(self.edits / batch_size)
        return replace(self, batches=batches, batch_size=batch_size)


def _questions(edit: Edit) -> Iterator[tuple[str, str | None]]:
    """The prompts that an edit is measured with, and what is fed in after them."""
    yield edit.prompt, edit.target
    yield from ((rephrase.prompt, edit.target) for rephrase in edit.rephrases)
    yield from ((other.prompt, other.target) for other in edit.locality)


@dataclass(frozen=True)
class Footprint:
    """What an editor needs beside the host, in bytes.

    ``held`` stays, summed over all batches, and ``holds`` says in words what that is; ``training``
    is needed while a batch is learned, ``answering`` for a token while questions are answered.
    ``routing`` is what a router keeps of all batches, and what undo keeps of it.
    """

    held: float
    training: float
    holds: str
    answering: float = 0
    routing: float = 0

    def with_more(self, holds: str = "", held: float = 0, training: float = 0) -> Footprint:
        """The same and more; ``holds`` continues the words."""
        return replace(
            self,
            held=self.held + held,
            training=self.training + training,
            holds=self.holds + holds,
        )

    def with_solving(self, weights: Sequence[Tensor]) -> Footprint:
        """The same, where each weight in turn is solved for in float64."""
        return self.with_more(training=4 * max(_squares(weights)) * FLOAT64)

    def with_second_moments(self, weights: Sequence[Tensor]) -> Footprint:
        """The same, where second moments of what enters the weights are kept."""
        held = sum(_squares(weights)) * FLOAT32
        return self.with_more(" and second moments of their inputs", held=held)


def _squares(weights: Sequence[Tensor]) -> list[int]:
    return [max(weight.shape) ** 2 for weight in weights]


def ffn_sizes(host: Host, layer: int) -> list[tuple[int, int]]:
    """(out, in) of the matrices of a layer's FFN, or of one expert of it, the output's last."""
    return [sizes(linear) for linear in linears(standalone(host.ffn(layer)))]
