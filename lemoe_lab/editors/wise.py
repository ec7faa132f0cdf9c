"""WISE: edits in a side memory, found again by its activation (arXiv 2405.14768).

editor = WISE()
editor = WISE(retrieve=False)       # one side memory for everything
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from ..edits import EditBatch, EditStream
from ..host.encoding import TokenSequence
from ..host.hooks import hung, on_output
from .base import EditorConfig, OnStep, TrainingReport, train
from .shared.footprint import FLOAT32, FLOAT64, TRAINED, Footprint, Workload
from .shared.preset import Preset
from .shared.reversible import HookedEditor
from .shared.side_memory import (
    Activation,
    SideMemories,
    SideMemory,
    activations,
    margin_loss,
    random_mask,
    ties_merge,
    token_weights,
)
from .shared.weights import matrix


class WISEConfig(EditorConfig):
    """Settings of WISE.

    Parameters
    ----------
    layer
        The decoder layer whose FFN output projection gets side memories, from 0; None: the
        middle one. (The paper takes layer 27 of 32; the late layers of a small host cannot.)
    mask_ratio
        rho, the share of the weight's entries that a shard may change. (The paper: 0.2; a batch
        does not fit into that share of a weight of 69,120 entries.)
    shards
        k, how many shards are merged into one side memory.
    merge_every
        Batches after which the shards are merged; a multiple of ``shards``. With both 1 nothing is
        merged, and every batch has a side memory.
    density
        Share of the weight's entries, the largest, that a shard keeps when it is merged; more than
        ``mask_ratio`` keeps all that it changed.
    retrieve
        Every merge makes a side memory of its own, and inputs take the one with the highest
        activation (WISE-Retrieve); False merges everything into one (WISE-Merge).
    alpha, beta, gamma
        Margins of the routing loss: irrelevant prompts activate a side memory by less than alpha,
        edits by more than beta, and by gamma more than irrelevant prompts. In the units of the
        FFN's output.
    irrelevant
        How many prompts of calibration facts the margins of one batch see.
    activation
        Which tokens of a prompt the routing activation looks at: the ``"mean"`` over all of them
        (the paper) or the ``"last"`` one (ours). A small host says the same of the tokens that
        prompts share, and only at the last one tells their facts apart.
    activation_ratio
        The threshold epsilon, as a share of the least activation of an edit.
    steps, learning_rate, loss_threshold
        AdamW takes at most ``steps`` steps at each batch, fewer once the loss is below
        ``loss_threshold``.
    """

    layer: int | None = Field(None, ge=0)
    mask_ratio: float = Field(0.5, gt=0, le=1)
    shards: int = Field(2, ge=1)
    merge_every: int = Field(2, ge=1)
    density: float = Field(0.53, gt=0, le=1)
    retrieve: bool = True
    alpha: float = Field(5.0, ge=0)
    beta: float = Field(20.0, ge=0)
    gamma: float = Field(10.0, ge=0)
    irrelevant: int = Field(400, ge=1)
    activation: Activation = "last"
    activation_ratio: float = Field(0.88, gt=0)
    steps: int = Field(70, ge=1)
    learning_rate: float = Field(1e-2, gt=0)
    loss_threshold: float = Field(0.01, ge=0)

    @model_validator(mode="after")
    def _shards_fit(self) -> WISEConfig:
        if self.merge_every % self.shards:
            raise ValueError(
                f"merge_every={self.merge_every} is no multiple of shards={self.shards}: each "
                "shard learns the same number of batches"
            )
        return self


@dataclass(frozen=True)
class Shard:
    """A side memory that still learns: values (n,) at the places (n,) of its mask."""

    number: int
    places: Tensor
    values: Tensor
    least: float  # the least activation of its edits


@dataclass(frozen=True)
class Memory:
    """What WISE holds at one time; the tensors are shared, never changed in place."""

    merged: tuple[SideMemory, ...] = ()
    shards: tuple[Shard, ...] = ()  # not yet merged
    latest: Shard | None = None  # the one that the last batch trained


@dataclass(frozen=True)
class ProjectionInputs:
    """``hidden`` (B, L, h) enters the projection; ``weights`` (B, L) is what each token counts."""

    hidden: Tensor
    weights: Tensor


class WISE(HookedEditor):
    """WISE: main memory, side memories, and the margin that tells their inputs apart.

        FFN(x) = A(x) W'  if D(x) > epsilon  else  A(x) W                             (eq. 4)
        D(x) = |A(x) (W' - W)|_2, at the last token of the prompt or their mean       (eq. 3)
        L_a = max(0, D(x_i) - alpha) + max(0, beta - D(x_e))
              + max(0, gamma - (D(x_e) - D(x_i)))                                     (eq. 5)
        L = -log p(y_e | x_e; W') + L_a                                               (eq. 6)
        W' <- W' - rate * M . gradient,  M random with density rho                    (eq. 7)
        W' <- W + TIES(W'_1 - W, ..., W'_k - W)                                       (eq. 8)

    W is the output projection of one FFN, A(x) its input; x_e are edits, x_i irrelevant prompts.
    A shard learns ``merge_every / shards`` batches under one mask M; k shards are merged. Until
    then every shard answers as a side memory. epsilon is the least D of a memory's edits, times
    ``activation_ratio``.
    """

    Config = WISEConfig
    config: WISEConfig
    presets: ClassVar = {
        "WISE": Preset("side memories of one matrix, merged", colour="#8C3D00"),
        "WISE, unmerged": Preset(
            "one shard and a side memory for every batch",
            {"shards": 1, "merge_every": 1},
            "#B8763F",
        ),
    }

    def __init__(self, **settings: object) -> None:
        super().__init__(**settings)
        self.memory = Memory()

    @property
    def layer(self) -> int:
        given = self.config.layer
        return len(self.host.layers) // 2 if given is None else given

    # Life

    def _hang_on(self, stream: EditStream, calibration: dict[str, Tensor] | None) -> None:
        self.host.ffn(self.layer)
        self._unrelated = [prompt for fact in stream.calibration for prompt in fact.prompts]
        if not self._unrelated:
            raise ValueError(
                "WISE learns its margins from prompts outside the stream, and this stream carries "
                "none; give the stream `calibration`"
            )
        self.side = SideMemories(self.host, self.layer, self.config.activation, self._applied)
        self._detach = self.side.attach()
        self._restore(Memory())

    @contextmanager
    def disabled(self) -> Iterator[None]:
        with self.side.switched_off():
            yield

    # Editing

    def _learn(
        self, batch: EditBatch, sequences: Sequence[TokenSequence], on_step: OnStep | None
    ) -> TrainingReport:
        config, host = self.config, self.host
        shard = self._open_shard()
        with self.disabled():
            states = host.states(sequences, self.layer)
            edited = self._projection_inputs(sequences)
            irrelevant = self._projection_inputs(self._irrelevant())
        ids = host.target_ids(sequences)
        values = nn.Parameter(shard.values.clone())

        def loss_of() -> Tensor:
            change = self._change(shard.places, values)
            with self.side.fixed(change):
                hidden = host.finish(states, self.layer)
            likelihood = F.cross_entropy(host.target_logits(hidden, sequences), ids)
            return likelihood + margin_loss(
                activations(edited.hidden, change, edited.weights),
                activations(irrelevant.hidden, change, irrelevant.weights),
                config.alpha,
                config.beta,
                config.gamma,
            )

        groups = [([values], config.learning_rate)]
        losses = train(groups, loss_of, config.steps, config.loss_threshold, on_step)
        with torch.no_grad():
            change = self._change(shard.places, values)
            measured = activations(edited.hidden, change, edited.weights)
        least = min(shard.least, measured.min().item())
        self._keep(replace(shard, values=values.detach(), least=least))
        return TrainingReport(losses)

    def _open_shard(self) -> Shard:
        """The shard that the current batch goes to, new or as older batches left it."""
        number = (self.steps - 1) // (self.config.merge_every // self.config.shards)
        shards = self.memory.shards
        if shards and shards[-1].number == number:
            return shards[-1]
        count = matrix(self.side.projection).numel()
        seed = self.config.seed * 100_003 + number
        places = random_mask(count, self.config.mask_ratio, seed).to(self.host.device)
        return Shard(number, places, torch.zeros(len(places), device=places.device), torch.inf)

    def _keep(self, shard: Shard) -> None:
        """Remember what a batch left in its shard; merge the shards when it is time."""
        closed = tuple(other for other in self.memory.shards if other.number != shard.number)
        memory = Memory(self.memory.merged, (*closed, shard), shard)
        if self.steps % self.config.merge_every == 0:
            memory = Memory(self._merge(memory), (), shard)
        self._restore(memory)

    def _merge(self, memory: Memory) -> tuple[SideMemory, ...]:
        """The side memories after merging the open shards."""
        parts = [self._side_memory(shard) for shard in memory.shards]
        if not self.config.retrieve:
            parts = [*memory.merged, *parts]
        merged = SideMemory(
            ties_merge([part.change for part in parts], self.config.density),
            min(part.threshold for part in parts),
        )
        return (*memory.merged, merged) if self.config.retrieve else (merged,)

    def _held(self, memory: Memory) -> tuple[SideMemory, ...]:
        """The side memories that inputs may take now."""
        if not memory.shards:
            return memory.merged
        if not self.config.retrieve:
            return self._merge(memory)
        return (*memory.merged, *map(self._side_memory, memory.shards))

    def _change(self, places: Tensor, values: Tensor) -> Tensor:
        """W' - W (d, h) with these values at these places, and zero elsewhere."""
        shape = matrix(self.side.projection).shape
        flat = torch.zeros(shape.numel(), device=values.device)
        return flat.index_copy(0, places, values).view(shape)

    def _side_memory(self, shard: Shard) -> SideMemory:
        threshold = shard.least * self.config.activation_ratio
        return SideMemory(self._change(shard.places, shard.values), threshold)

    def _irrelevant(self) -> list[TokenSequence]:
        """Prompts of calibration facts for the margins of the current batch."""
        generator = torch.Generator().manual_seed(self.config.seed * 100_003 + self.steps)
        drawn = torch.randperm(len(self._unrelated), generator=generator)
        prompts = [self._unrelated[i] for i in drawn[: self.config.irrelevant].tolist()]
        return [TokenSequence(self.host.encode_prompt(prompt), ()) for prompt in prompts]

    @torch.no_grad()
    def _projection_inputs(self, sequences: Sequence[TokenSequence]) -> ProjectionInputs:
        """What enters the projection of the unedited host."""
        host, inputs = self.host, []
        with hung(on_output(self.side.projection, lambda x, _output: inputs.append(x.float()))):
            host.states(sequences, self.layer)
        lengths = torch.tensor([len(s.prompt) for s in sequences], device=host.device)
        tokens = torch.arange(inputs[0].shape[1], device=host.device) < lengths[:, None]
        return ProjectionInputs(inputs[0], token_weights(tokens, self.config.activation))

    # State

    @property
    def added_values(self) -> int:
        return sum(memory.change.numel() + 1 for memory in self.side.held)

    def _snapshot(self) -> Memory:
        return self.memory

    def _restore(self, snapshot: Memory) -> None:
        self.memory = snapshot
        self.side.held = self._held(snapshot)

    def step_state(self, step: int) -> dict[str, Tensor]:
        if step == 0:
            return {}
        shard = self._after(step).latest
        least = torch.tensor(shard.least, dtype=torch.double)
        return {"values": shard.values, "least": least}

    def _load(self, state: dict[str, Tensor]) -> None:
        shard, least = self._open_shard(), state["least"].item()
        self._keep(replace(shard, values=state["values"].to(self.host.device), least=least))

    def footprint(self, work: Workload) -> Footprint:
        config, weight = self.config, self.host.ffn_output(self.layer).weight
        merged = work.batches // config.merge_every if config.retrieve else 1
        count, masked = merged + config.shards, config.mask_ratio * weight.numel()
        irrelevant = config.irrelevant * work.tokens * max(weight.shape)
        return Footprint(
            held=count * weight.numel() * FLOAT32 + work.batches * masked * (FLOAT32 + FLOAT64),
            training=(TRAINED * masked + 2 * weight.numel() + irrelevant) * FLOAT32,
            holds=f"{count} side memories of one weight, and their masks",
        )
