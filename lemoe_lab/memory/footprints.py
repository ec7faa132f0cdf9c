"""What an editor keeps of all batches, and what it needs to learn one, from shapes alone.

    footprint(on_host(LEMoE(), host), Workload.of(host, stream))      # bytes

One registered function for every family of editors; :mod:`lemoe_lab.memory.estimate` adds the host.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import singledispatch

from ..editors.alphaedit import AlphaEdit
from ..editors.base import Editor
from ..editors.defer import DEFER
from ..editors.fine_tune_ewc import FineTuneEWC
from ..editors.memit import MEMIT
from ..editors.moe_adaptor import MoEAdaptor
from ..editors.rome import ROME
from ..editors.shared.bypass import BypassEditor
from ..editors.shared.replacing import ReplacingEditor
from ..editors.shared.weights import WeightEditor
from ..editors.ultra_edit import UltraEdit
from ..editors.wise import WISE
from ..edits import Edit, EditStream
from ..host import Host
from ..host.feed_forward import linears, sizes, standalone

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


def on_host(editor: Editor, host: Host) -> Editor:
    """A view of an editor on a host, to ask what it would change there; it changes neither."""
    view = copy.copy(editor)
    view._host = host
    return view


def ffn_sizes(host: Host, layer: int) -> list[tuple[int, int]]:
    """(out, in) of the matrices of a layer's FFN, or of one expert of it, the output's last."""
    return [sizes(linear) for linear in linears(standalone(host.ffn(layer)))]


@singledispatch
def footprint(editor: Editor, work: Workload) -> Footprint:
    """What an editor that knows its host needs for a stream."""
    return Footprint(0, 0, "nothing that grows")


@footprint.register
def _experts(editor: BypassEditor, work: Workload) -> Footprint:
    config = editor.config
    together, answering = 1, 1
    if isinstance(editor, MoEAdaptor):
        together, answering = config.experts, config.top_k
    matrices, rank = ffn_sizes(editor.host, editor.layer), config.expert_rank
    width, native = matrices[-1]
    if rank is None:
        hidden = config.intermediate or native
        numbers = sum(outputs * inputs for outputs, inputs in matrices) * hidden // native
        kind = f"of hidden size {hidden:,}"
    else:
        hidden = 2 * native  # the host's FFN runs with the changes and without
        numbers = sum(rank * (outputs + inputs) for outputs, inputs in matrices)
        kind = f"of rank {rank}"
    tokens = answering * work.batch_size * work.tokens
    return Footprint(
        held=work.batches * together * numbers * FLOAT32,
        training=(TRAINED * together * numbers + tokens * (width + 4 * hidden)) * FLOAT32,
        holds=f"{work.batches * together:,} experts {kind}",
        answering=answering * 3 * hidden * FLOAT32,
        routing=_router(editor, work),
    )


def _router(editor: BypassEditor, work: Workload) -> float:
    """Anchors, in room for twice as many and once more in the steps, and copies of what trains."""
    config, host = editor.config, editor.host
    if isinstance(editor, MoEAdaptor):
        return work.batches * (config.experts + 2) * max(host.width, host.embedding_width) * FLOAT32
    scoped = config.routing == "scoped"
    width = min(config.value_width, host.width) if scoped else host.embedding_width
    anchors = 3 * work.edits * (width * FLOAT32 + ANCHOR)
    trained = 0 if scoped else config.value_width * (width + config.value_width + 1)
    return anchors + work.batches * trained * FLOAT32


@footprint.register
def _weights(editor: WeightEditor, work: Workload) -> Footprint:
    weights = editor._edited_weights()
    held = work.batches * sum(w.nbytes for w in weights)
    training = sum(w.numel() for w in weights) * (1 + TRAINED) * FLOAT32
    holds = f"{work.batches} copies of {len(weights)} weights"
    squares = [max(w.shape) ** 2 for w in weights]
    if isinstance(editor, FineTuneEWC):
        held += work.batches * sum(w.numel() for w in weights) * FLOAT32
        holds += " and of what says how much each of their numbers matters"
    if isinstance(editor, AlphaEdit):
        held += work.edits * sum(max(w.shape) for w in weights) * FLOAT32
        holds += " with the keys of all edits"
    if isinstance(editor, (ROME, MEMIT, UltraEdit)):  # solved in float64, one weight at a time
        training += 4 * max(squares) * FLOAT64
    if isinstance(editor, (ROME, MEMIT)):
        held += sum(squares) * FLOAT32
        holds += " and second moments of their inputs"
    return Footprint(held, training, holds)


@footprint.register
def _side_memories(editor: WISE, work: Workload) -> Footprint:
    config, weight = editor.config, editor.host.ffn_output(editor.layer).weight
    merged = work.batches // config.merge_every if config.retrieve else 1
    count, masked = merged + config.shards, config.mask_ratio * weight.numel()
    held = count * weight.numel() * FLOAT32 + work.batches * masked * (FLOAT32 + FLOAT64)
    irrelevant = config.irrelevant * work.tokens * max(weight.shape)
    training = (TRAINED * masked + 2 * weight.numel() + irrelevant) * FLOAT32
    return Footprint(held, training, f"{count} side memories of one weight, and their masks")


@footprint.register
def _codebook(editor: ReplacingEditor, work: Workload) -> Footprint:
    entry = 2 * editor.host.width * FLOAT32
    training = TRAINED * work.batch_size * entry
    return Footprint(2 * work.edits * entry, training, f"keys and values of {work.edits} edits")


@footprint.register
def _networks(editor: DEFER, work: Workload) -> Footprint:
    config, width = editor.config, editor.host.width
    side = 2 * width * config.side_hidden if config.side_hidden else width**2
    numbers = side + config.scope_width * (config.gate_hidden or 1)
    held = work.batches * numbers * FLOAT32
    return Footprint(held, TRAINED * numbers * FLOAT32, f"{work.batches} gates and side networks")
