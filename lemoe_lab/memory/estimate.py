"""How much memory a run will take, before it starts.

    estimate = estimate_memory(host, LEMoE(), stream)
    estimate.total, estimate.available            # bytes
    print(estimate)                               # one sentence, and what lowers it
    warn_if_too_large(host, LEMoE(), stream)

Counted are the tensors that grow with the host, the editor and the stream. Calibration, libraries,
short-lived buffers and what is kept of earlier sessions (host/baseline.py) come on top.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
import torch

from ..editors.base import Editor
from ..editors.shared.bypass import BypassEditor
from ..editors.shared.footprint import FLOAT32, Workload, ffn_sizes
from ..edits import EditStream
from ..host import Host
from ..host.feed_forward import is_mixture

ASKED = 128  # questions that are measured together
NEW_TOKENS = 24  # of a generated answer
RANKS = (64, 16)  # of low-rank experts that are worth a try
WORTH_NAMING = 0.01  # share of the total that a knob must save
CONTAINER = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Knob:
    """A setting that lowers the memory of a run, and by how many bytes."""

    setting: str
    saves: float


@dataclass(frozen=True)
class MemoryEstimate:
    """The memory of a run in bytes.

    Attributes
    ----------
    host
        The host's weights.
    held
        What the editor keeps of all batches; ``holds`` names it.
    routing
        What a router keeps of all batches: anchors, and what undo brings back of it.
    training
        What learning a batch needs by itself: of trained experts, gradients and AdamW's moments.
    activations
        Hidden states of a batch, and activations of the layers above the edited one.
    logits
        Of a batch's target tokens, with their gradients.
    questions
        Hidden states of all questions, kept so that they can be measured again.
    measuring
        What answering one lot of questions takes, all by experts; never while a batch is learned.
    available
        What the run can have: free now, or taken by the host already. NaN if unknown.
    knobs
        What would lower it, what saves most first.
    """

    host: float
    held: float
    training: float
    activations: float
    logits: float
    questions: float
    measuring: float
    holds: str
    available: float = math.nan
    knobs: tuple[Knob, ...] = ()
    routing: float = 0.0

    @property
    def learning(self) -> float:
        """All that is needed only while a batch is learned."""
        return self.training + self.activations + self.logits

    @property
    def total(self) -> float:
        """The most that is in use at one time."""
        kept = self.host + self.held + self.routing + self.questions
        return kept + max(self.learning, self.measuring)

    @property
    def fits(self) -> bool:
        """False if the run needs more than there is; True also where that is unknown."""
        return not self.total > self.available

    def __str__(self) -> str:
        parts = {
            "the host": self.host,
            self.holds: self.held,
            "questions": self.questions,
            "learning a batch": self.learning,
        }
        if self.routing > WORTH_NAMING * self.total:
            parts["the router"] = self.routing
        if self.measuring > self.learning:
            parts["measuring"] = self.measuring
            del parts["learning a batch"]
        shares = ", ".join(f"{readable(size)} for {part}" for part, size in parts.items())
        have = "an unknown amount" if math.isnan(self.available) else readable(self.available)
        sentence = f"this run needs about {readable(self.total)}, you have {have} ({shares})"
        knobs = ", ".join(f"{k.setting} saves {readable(k.saves)}" for k in self.knobs)
        return f"{sentence}; {knobs}" if knobs else sentence


def estimate_memory(host: Host, editor: Editor, stream: EditStream) -> MemoryEstimate:
    """How much memory it takes to run a stream, from shapes alone: nothing is computed.

    The editor need not be attached, and is not changed. Right within a factor of two where the run
    is large beside the libraries.

    Raises
    ------
    EditError
        If an edit does not fit into the host's context.
    """
    work = Workload.of(host, stream)
    estimate = _parts(host, editor, work)
    saved = (
        Knob(setting, estimate.total - _parts(*changed).total)
        for setting, *changed in _alternatives(host, editor, work)
    )
    worth = [knob for knob in saved if knob.saves > WORTH_NAMING * estimate.total]
    knobs = tuple(sorted(worth, key=lambda knob: -knob.saves))
    return replace(estimate, available=estimate.host + available_memory(host), knobs=knobs)


def warn_if_too_large(host: Host, editor: Editor, stream: EditStream) -> MemoryEstimate:
    """Estimate a run, and warn, naming what lowers it, if it needs more memory than there is."""
    estimate = estimate_memory(host, editor, stream)
    if not estimate.fits:
        warnings.warn(str(estimate), stacklevel=3)
    return estimate


def _parts(host: Host, editor: Editor, work: Workload) -> MemoryEstimate:
    view = on_host(editor, host)
    needs = view.footprint(work)
    above = len(host.layers) - view.layer
    hidden = host.width * host.model.dtype.itemsize  # of one token
    vocabulary = len(host.model.get_output_embeddings().weight)
    row = work.target * vocabulary * FLOAT32  # logits of one target
    asked = min(ASKED, work.batch_size * work.questions)
    scoring = asked * (2 * row + work.asked * (above * hidden + needs.answering))
    decoding = asked * (work.asked + NEW_TOKENS) * _cached(host)
    return MemoryEstimate(
        host=sum(parameter.nbytes for parameter in host.model.parameters()),
        held=needs.held,
        training=needs.training,
        activations=work.batch_size * work.tokens * (2 * hidden + _saved_above(host, view.layer)),
        logits=work.batch_size * 3 * row,  # they, their log-probabilities, the gradient
        questions=work.edits * work.questions * work.asked * hidden,
        measuring=max(scoring, decoding),
        holds=needs.holds,
        routing=needs.routing,
    )


def _alternatives(
    host: Host, editor: Editor, work: Workload
) -> Iterator[tuple[str, Host, Editor, Workload]]:
    """Settings that may lower the memory, with the host, the editor and the work they make."""
    recomputing = copy.copy(host)
    recomputing.gradient_checkpointing = True
    yield "load_host(..., gradient_checkpointing=True)", recomputing, editor, work
    for size in (work.batch_size // 2, work.batch_size * 2):
        if 0 < size <= work.edits:
            yield f"batch_size={size}", host, editor, work.with_batch_size(size)
    if not isinstance(editor, BypassEditor):
        return
    config, layer = editor.config, on_host(editor, host).layer
    smaller = []
    if config.expert_rank is None:
        hidden = config.intermediate or ffn_sizes(host, layer)[-1][1]
        smaller += [{"intermediate": size} for size in (hidden // 4, hidden // 16) if size]
    if not is_mixture(host.ffn(layer)):
        ranks = [rank for rank in RANKS if rank < (config.expert_rank or math.inf)]
        smaller += [{"intermediate": None, "expert_rank": rank} for rank in ranks]
    for settings in smaller:
        *_, (name, value) = settings.items()
        yield f"{name}={value}", host, type(editor)(**config.model_dump() | settings), work


# What one token takes


def _saved_above(host: Host, layer: int) -> int:
    """What the backward pass through the decoder layers from ``layer`` up needs of one token.

    Their weights are frozen. In each both norms keep their input in float32; attention keeps
    queries, keys, values and its output; the FFN its gate before and after the activation, and what
    that is multiplied with. With gradient checkpointing only one of them is so large at a time.
    """
    value, above = host.model.dtype.itemsize, len(host.layers) - layer
    _, hidden = ffn_sizes(host, layer)[-1]
    one = 2 * host.width * FLOAT32 + (4 * host.width + 3 * hidden) * value
    return one + above * host.width * value if host.gradient_checkpointing else above * one


def _cached(host: Host) -> int:
    """What all layers' keys and values of one token take while decoding."""
    config = host.model.config.get_text_config()
    heads = config.num_attention_heads
    size = getattr(config, "head_dim", None) or host.width // heads
    kept = getattr(config, "num_key_value_heads", None) or heads
    return 2 * len(host.layers) * kept * size * host.model.dtype.itemsize


# What the machine has


def available_memory(host: Host) -> float:
    """Bytes that are free on the devices of the host's weights; NaN if a system does not tell."""
    devices = {parameter.device for parameter in host.model.parameters()}
    return sum(map(_free_on, devices))


def _free_on(device: torch.device) -> float:
    if device.type == "cuda":
        reusable = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return float(torch.cuda.mem_get_info(device)[0] + reusable)
    return _free_in_main_memory() if device.type == "cpu" else math.nan


def _free_in_main_memory() -> float:
    """Of the machine, or of the container if that has less left."""
    free = float(psutil.virtual_memory().available)
    try:
        limit = float((CONTAINER / "memory.max").read_text())
        used = float((CONTAINER / "memory.current").read_text())
    except (OSError, ValueError):  # no container, or one without a limit ("max")
        return free
    return min(free, limit - used)


def readable(size: float) -> str:
    """A size in bytes as people say it: 31 GB, 2.4 GB, 80 MB."""
    unit, name = (1e9, "GB") if size >= 1e9 else (1e6, "MB")
    return f"{size / unit:.1f} {name}" if size < 10 * unit else f"{size / unit:.0f} {name}"


def on_host(editor: Editor, host: Host) -> Editor:
    """A view of an editor on a host, to ask what it would change there; it changes neither."""
    view = copy.copy(editor)
    attribute = "_host" if hasattr(type(editor), "host") else "host"  # read-only, or plain
    setattr(view, attribute, host)
    return view
