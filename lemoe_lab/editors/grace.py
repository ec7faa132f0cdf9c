"""GRACE: a codebook of keys, values and radii beside one layer (arXiv 2211.11031)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from ..adaptor.anchors import UNKNOWN
from ..edits import EditBatch, EditStream
from ..host.encoding import TokenSequence
from ..host.identity import number_of, prompt_numbers
from ..host.states import LayerStates
from .base import OnStep, TrainingReport, named, tensors_of, train
from .shared.footprint import FLOAT32, TRAINED, Footprint, Workload
from .shared.gradients import target_losses
from .shared.preset import Preset
from .shared.replacing import Replacement, ReplacingConfig, ReplacingEditor


class GRACEConfig(ReplacingConfig):
    """Settings of GRACE, beside those of every editor that replaces an FFN's output.

    Parameters
    ----------
    epsilon
        The radius of a new entry, as a distance of FFN inputs (the paper takes 1.0 to 3.0 on its
        hosts); None: ``reach``.
    reach
        The same as a share of the median distance between a calibration fact and the nearest other
        one, so that it holds for any host. At 0.5 two typical neighbours just do not overlap, and
        on the embedded host, which learned every fact in five wordings, most rewordings lie inside;
        ``epsilon=1.0`` there covers hardly any.
    steps, loss_threshold
        A value is trained until the loss of its targets is this small. (The paper's code takes 100
        steps; a few targets need more, and in low precision the rest of their loss decides.)
    initial_values
        ``"cold"``: new values are drawn from [0, 1); ``"warm"``: they are the FFN's output.
    """

    epsilon: float | None = Field(None, gt=0)
    reach: float = Field(0.5, gt=0)
    initial_values: Literal["cold", "warm"] = "cold"
    steps: int = Field(200, ge=1)
    loss_threshold: float = Field(0.01, ge=0)


@dataclass(frozen=True)
class Codebook:
    """Entries of a codebook; nothing in it is changed in place.

    ``keys`` (n, d), ``values`` (n, d), ``radii`` (n,), ``labels`` (n,) and ``prompts`` (n,) int64:
    the numbers of the targets, and of the prompts that the keys come from.
    """

    keys: Tensor
    values: Tensor
    radii: Tensor
    labels: Tensor
    prompts: Tensor

    @classmethod
    def empty(cls, width: int, device: torch.device) -> Codebook:
        rows = torch.empty(0, width, device=device)
        numbers = torch.empty(0, dtype=torch.long, device=device)
        return cls(rows, rows, torch.empty(0, device=device), numbers, numbers)

    def __len__(self) -> int:
        return len(self.keys)

    def nearest(self, queries: Tensor) -> tuple[Tensor, Tensor]:
        """Distances (B,) from queries (B, d) to their nearest keys, and those entries (B,)."""
        exact = "donot_use_mm_for_euclid_dist"  # the fast way errs most where distances are small
        return torch.cdist(queries, self.keys, compute_mode=exact).min(1)

    def learned(
        self, key: Tensor, value: Tensor, label: int, radius: float, prompt: int = UNKNOWN
    ) -> tuple[Codebook, int]:
        """The codebook after an edit with this key (d,), and the entry that answers for it."""
        numbers = (torch.tensor([number], device=key.device) for number in (radius, label, prompt))
        new = Codebook(key[None], value[None], *numbers)
        if not len(self):
            return self._added(new)
        if prompt != UNKNOWN and len(known := (self.prompts == prompt).nonzero()):
            return self._revised(known.item(), new)
        distance, entry = (found.item() for found in self.nearest(key[None]))
        if distance > self.radii[entry].item() + radius:
            return self._added(new)
        if self.labels[entry].item() == label:
            return self._widened(entry, distance), entry
        if distance == 0:  # no query could tell the two apart
            return self._revised(entry, new)
        halved = self._changed(entry, radii=distance / 2)
        return halved._added(replace(new, radii=torch.full_like(new.radii, distance / 2)))

    def _revised(self, entry: int, newer: Codebook) -> tuple[Codebook, int]:
        """The codebook with an edit of the very prompt of an entry."""
        if self.labels[entry] == newer.labels[0]:
            return self._widened(entry, (self.keys[entry] - newer.keys[0]).norm().item()), entry
        columns = {name: new[0] for name, new in newer.columns().items() if name != "radii"}
        return self._changed(entry, **columns), entry

    def _widened(self, entry: int, distance: float) -> Codebook:
        return self._changed(entry, radii=max(distance, self.radii[entry].item()))

    def _added(self, new: Codebook) -> tuple[Codebook, int]:
        return self.written(torch.tensor([len(self)], device=new.keys.device), new), len(self)

    def _changed(self, entry: int, **columns: Tensor | float) -> Codebook:
        new = {name: getattr(self, name).clone() for name in columns}
        for name, column in new.items():
            column[entry] = columns[name]
        return replace(self, **new)

    def rows(self, chosen: Tensor) -> Codebook:
        """The chosen entries."""
        return Codebook(**{name: column[chosen] for name, column in self.columns().items()})

    def written(self, rows: Tensor, entries: Codebook) -> Codebook:
        """The codebook with ``entries`` at ``rows`` (ascending), longer where they lie behind."""
        inside = rows < len(self)
        columns = {}
        for name, new in entries.columns().items():
            column = getattr(self, name).index_copy(0, rows[inside], new[inside])
            columns[name] = torch.cat([column, new[~inside]])
        return Codebook(**columns)

    def columns(self) -> dict[str, Tensor]:
        """All tensors by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def differing(self, earlier: Codebook) -> Tensor:
        """Entries, ascending, that a shorter or equally long ``earlier`` codebook lacks."""
        other = torch.zeros(len(self), dtype=torch.bool, device=self.keys.device)
        other[len(earlier) :] = True
        for name, column in self.columns().items():
            changed = column[: len(earlier)] != getattr(earlier, name)
            other[: len(earlier)] |= changed[..., None].flatten(1).any(1)
        return other.nonzero()[:, 0]


@dataclass(frozen=True)
class Change:
    """What one batch did to the codebook: only the entries that it added or changed.

    ``rows`` are those entries; ``before`` holds the ones among them that existed, ``after`` all.
    """

    step: int
    earlier: Change | None
    rows: Tensor
    before: Codebook
    after: Codebook

    def taken_back(self, codebook: Codebook) -> Codebook:
        length = len(codebook) - len(self.after) + len(self.before)
        kept = codebook.rows(torch.arange(length, device=self.rows.device))
        return kept.written(self.rows[: len(self.before)], self.before)


class GRACE(ReplacingEditor):
    """GRACE: entries (k_i, v_i, e_i, y_i) of key, value, radius and label (arXiv 2211.11031).

        h = v_i        if d(x, k_i) <= e_i,   i = argmin_j d(x, k_j)         (deferral, eq. 1)
        h = FFN(x)     otherwise

    x is the FFN's input at the last prompt token and d the Euclidean distance; v_i stands at the
    tokens that ``replacement`` names. An edit (x, y) meets the nearest entry i (algorithm 1):

        add        d > e_i + epsilon                  new entry (x, v, epsilon, y)
        expand     d <= e_i + epsilon and y = y_i     e_i = max(e_i, d)
        split      d <= e_i + epsilon and y != y_i    e_i = d / 2, new entry (x, v, d / 2, y)

    Values are trained by gradient on the target of their edits, those of a batch together: each
    touches only its own inputs, and stops when the loss of all of them is below
    ``loss_threshold``. An expanded entry is trained on if its value does not answer yet. Where a
    newer edit has the very prompt of an entry, a split would leave no room to either; the newer
    edit takes the entry over. Prompts are known by their tokens, for in low precision the key of
    one hangs on what it is batched with.
    """

    Config = GRACEConfig
    config: GRACEConfig
    presets: ClassVar = {
        "GRACE": Preset(
            "a codebook, its first radius chosen by calibration facts", colour="#F0E442"
        ),
        "GRACE, narrow": Preset(
            "a codebook with the reference implementation's radius", {"epsilon": 1.0}, "#D8C93A"
        ),
    }
    hashes: ClassVar = ("entries.labels", "entries.prompts")

    # Before the first batch

    def _prepare(self, stream: EditStream, calibration: dict[str, Tensor] | None) -> None:
        state = self._calibrate(stream) if calibration is None else calibration
        self.epsilon = state["epsilon"].item()
        self.codebook = Codebook.empty(self.host.width, self.host.device)
        nothing = torch.empty(0, dtype=torch.long, device=self.host.device)
        self._latest = Change(0, None, nothing, self.codebook, self.codebook)

    def _calibrate(self, stream: EditStream) -> dict[str, Tensor]:
        epsilon = self.config.epsilon
        if epsilon is None:
            if len(stream.calibration) < 2:
                raise ValueError(
                    "GRACE measures its first radius on facts outside the stream, and this stream "
                    "carries none; give the stream `calibration`, or GRACE its `epsilon`"
                )
            prompts = [fact.prompts[0] for fact in stream.calibration]
            keys = self.host.prompt_states(prompts, self.layer)
            distances = torch.cdist(keys, keys).fill_diagonal_(torch.inf).min(1).values
            epsilon = self.config.reach * distances.median().item()
        return {"epsilon": torch.tensor(epsilon, dtype=torch.double)}

    # Answering

    def _decide(self, queries: Tensor) -> Replacement | None:
        if not len(self.codebook):
            return None
        distance, entry = self.codebook.nearest(queries)
        return Replacement(self.codebook.values[entry], distance <= self.codebook.radii[entry])

    # Learning

    def _learn(
        self, batch: EditBatch, sequences: Sequence[TokenSequence], on_step: OnStep | None
    ) -> TrainingReport:
        with self.disabled():
            states = self.host.states(sequences, self.layer)
        codebook, entries = self.codebook, []
        prompts = prompt_numbers(self.host, batch).tolist()
        values = self._first_values(states)
        for key, value, sequence, prompt in zip(
            states.prompt_state, values, sequences, prompts, strict=True
        ):
            label = number_of(sequence.target)
            codebook, entry = codebook.learned(key, value, label, self.epsilon, prompt)
            entries.append(entry)
        entry_of = torch.tensor(entries, device=self.host.device)
        codebook, losses = self._train(codebook, entry_of, states, on_step)
        self._apply(codebook)
        return TrainingReport(losses)

    def _first_values(self, states: LayerStates) -> Tensor:
        """Untrained values (B, d) of new entries."""
        if self.config.initial_values == "warm":
            ffn, inputs = self.host.ffn(self.layer), states.prompt_state
            with self.disabled():
                return ffn(inputs.to(states.hidden.dtype)[:, None])[:, 0].float()
        generator = torch.Generator().manual_seed(self.config.seed * 100_003 + self.steps)
        return torch.rand(states.prompt_state.shape, generator=generator).to(self.host.device)

    def _train(
        self, codebook: Codebook, entry_of: Tensor, states: LayerStates, on_step: OnStep | None
    ) -> tuple[Codebook, list[float]]:
        """The codebook with values that answer the batch, whose edits use the entries (B,)."""
        config, host = self.config, self.host
        wrong = ~self._answered(codebook.values[entry_of], states)
        trained = entry_of[wrong].unique()  # (m,)
        open_rows = torch.isin(entry_of, trained).nonzero()[:, 0]
        if not len(open_rows):
            return codebook, []
        values = torch.nn.Parameter(codebook.values[trained])
        learned = codebook.values.clone()

        def loss_of() -> Tensor:
            nonlocal open_rows
            entries = entry_of[open_rows]
            chosen = values[torch.searchsorted(trained, entries)]
            with self._replacing(Replacement.whole(chosen)):
                hidden = host.finish(states, self.layer, open_rows)
            sequences = [states.sequences[i] for i in open_rows.tolist()]
            losses = target_losses(host, hidden, sequences)
            worst = torch.zeros(len(codebook), device=losses.device)
            worst.scatter_reduce_(0, entries, losses.detach(), "amax")
            done = worst[entries] < config.loss_threshold
            learned[entries[done]] = chosen[done].detach()
            open_rows = open_rows[~done]
            return losses.mean()

        groups = [([values], config.learning_rate)]
        losses = train(groups, loss_of, config.steps, config.loss_threshold, on_step)
        late = entry_of[open_rows]
        learned[late] = values.detach()[torch.searchsorted(trained, late)]
        return replace(codebook, values=learned), losses

    @torch.no_grad()
    def _answered(self, values: Tensor, states: LayerStates) -> Tensor:
        """Edits (B,) whose target the host already says with these values (B, d)."""
        with self._replacing(Replacement.whole(values)):
            hidden = self.host.finish(states, self.layer)
        scores = self.host.score_hidden(hidden, states.sequences)
        return torch.tensor([score.reproduced for score in scores], device=values.device)

    # State

    @property
    def added_values(self) -> int:
        return sum(column.numel() for column in self.codebook.columns().values())

    def _apply(self, codebook: Codebook) -> None:
        """Take the codebook of the step that begins, and remember what is new in it."""
        rows = codebook.differing(self.codebook)
        before = self.codebook.rows(rows[rows < len(self.codebook)])
        self._latest = Change(self.steps, self._latest, rows, before, codebook.rows(rows))
        self.codebook = codebook

    def _snapshot(self) -> Change:
        return self._latest

    def _restore(self, snapshot: Change) -> None:
        while self._latest.step > snapshot.step:
            self.codebook = self._latest.taken_back(self.codebook)
            self._latest = self._latest.earlier
        ahead = []
        while snapshot is not self._latest:
            ahead.append(snapshot)
            snapshot = snapshot.earlier
        for change in reversed(ahead):
            self.codebook = self.codebook.written(change.rows, change.after)
            self._latest = change

    def step_state(self, step: int) -> dict[str, Tensor]:
        if step == 0:
            return {"epsilon": torch.tensor(self.epsilon, dtype=torch.double)}
        change = self._after(step)
        return {"rows": change.rows} | named("entries", change.after.columns())

    def _load(self, state: dict[str, Tensor]) -> None:
        device = self.host.device
        entries = Codebook(**tensors_of(state, "entries", device))
        self._apply(self.codebook.written(state["rows"].to(device), entries))

    def footprint(self, work: Workload) -> Footprint:
        entry = 2 * self.host.width * FLOAT32
        return Footprint(
            held=2 * work.edits * entry,
            training=TRAINED * work.batch_size * entry,
            holds=f"keys and values of {work.edits} edits",
        )
