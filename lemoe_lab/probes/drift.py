"""What moves along a run: answers on neutral text, weights that edits rely on, routing values.

frame = drift(session)                        # inside the session's `with` block
frame = drift(session, passages=my_texts)     # hosts other than the embedded one
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional as F

from .. import metrics
from ..adaptor.routing import KVAnchorRouter
from ..datasets import almanac_prose
from ..host.states import LayerStates, length_buckets
from .collect import Sessions, live, walk_back

PASSAGES = 100  # of the Almanac's held-out prose; some 4,000 tokens
ROWS_AT_ONCE = 32
EVERYTHING = 0  # the batch of quantities that belong to the whole host


class Moved(NamedTuple):
    """One row of the frame: a quantity after a step, over ``n`` tokens, weights or prompts."""

    step: int
    batch: int
    quantity: str
    n: int
    value: float


def drift(sessions: Sessions, passages: Sequence[str] | None = None) -> pd.DataFrame:
    """What has moved after every step, against the unedited host or since an earlier batch.

    Columns: editor, order, seed, step, batch, quantity, n (tokens, weights or prompts behind the
    value), value. Quantities of the whole host have batch 0, the others one row for every batch
    learned by then:

    ``kl``
        KL(edited || unedited) of the next-token distributions on neutral text, mean over tokens, in
        nats. The first sentence of a passage decides its route, the rest is measured.
    ``perplexity_ratio``
        Unedited over edited perplexity of the same tokens, at most 1 (see
        ``metrics.perplexity_ratio``).
    ``weight_change``
        How far the weights that stood after the batch have moved since, relative to them:
        ``|W_step - W_batch| / |W_batch|`` in the Frobenius norm. An adaptor's weights are its
        experts at the time of the batch, so frozen experts give exactly 0. An editor that
        changes the host's own weights also has batch 0, the unedited ones.
    ``value_cosine``
        KV anchor routing only: cosine of the routing value v of the batch's prompts, now and right
        after the batch, mean over prompts.
    ``margin``
        KV anchor routing only: ``k_own . v - max_other k . v``, mean over the batch's prompts;
        below 0 the prompts go elsewhere. Superseded edits no longer count.

    Parameters
    ----------
    passages
        Neutral texts of two sentences or more; None: held-out prose of the Almanac, for the
        embedded host only.

    Raises
    ------
    ValueError
        For a closed session, one that has learned nothing, or a host without passages.
    """
    return live(sessions, lambda session: _drift(session, passages))


def _drift(session: Any, passages: Sequence[str] | None) -> pd.DataFrame:
    text = NeutralText(session, _default_passages(session) if passages is None else passages)
    anchors = AnchorDrift(session) if AnchorDrift.applies(session) else None
    weights: dict[int, dict[str, Tensor]] = {}
    rows: list[Moved] = []
    for step in walk_back(session):
        rows += text.measure(step)
        weights[step] = _trained_weights(session)
        if anchors:
            anchors.look(step)
    with session.at(0):
        weights[EVERYTHING] = _trained_weights(session)
    rows += _weight_changes(weights)
    if anchors:
        rows += anchors.rows()
    frame = pd.DataFrame(rows, columns=Moved._fields)
    return frame.sort_values(["step", "batch"], kind="stable", ignore_index=True)


# Neutral text


@dataclass
class _Chunk:
    """Passages that run together, up to the edited layer, and what the unedited host predicts."""

    states: LayerStates
    features: Tensor
    base: Tensor  # (n, V) log-probabilities
    targets: Tensor  # (n,)


class NeutralText:
    """Passages prepared once; measured at any step of a session."""

    def __init__(self, session: Any, passages: Sequence[str]) -> None:
        self.host, self.editor = session.host, session.editor
        sequences = [self.host.encode(*beginning_and_rest(passage)) for passage in passages]
        if not sequences:
            raise ValueError("passages is empty; pass at least one neutral text")
        self.chunks = []
        with self.editor.disabled(), torch.no_grad():
            for places in length_buckets(sequences, ROWS_AT_ONCE):
                states = self.host.states([sequences[i] for i in places], self.editor.layer)
                features = self.editor.features(states)
                targets = self.host.target_ids(states.sequences)
                self.chunks.append(_Chunk(states, features, self._predict(states), targets))

    def _predict(self, states: LayerStates) -> Tensor:
        hidden = self.host.finish(states, self.editor.layer)
        return self.host.target_logits(hidden, states.sequences).log_softmax(-1)

    @torch.no_grad()
    def measure(self, step: int) -> list[Moved]:
        """KL divergence and perplexity ratio, mean over the tokens of all passages."""
        divergence, base, edited = [], [], []
        for chunk in self.chunks:
            with self.editor.scoring(self.editor.routes(chunk.features)):
                now = self._predict(chunk.states)  # (n, V)
            divergence.append(kl_divergence(now, chunk.base))
            picked = (torch.arange(len(chunk.targets), device=now.device), chunk.targets)
            base.append(chunk.base[picked])
            edited.append(now[picked])
        ratio = metrics.perplexity_ratio(
            metrics.perplexity(torch.cat(base)), metrics.perplexity(torch.cat(edited))
        )
        per_token = torch.cat(divergence).double()
        quantities = {"kl": per_token.mean().item(), "perplexity_ratio": ratio}
        measured = partial(Moved, step, EVERYTHING, n=len(per_token))
        return [measured(quantity=name, value=value) for name, value in quantities.items()]


def kl_divergence(one: Tensor, other: Tensor) -> Tensor:
    """KL(one || other) of log-probabilities (n, V), in nats, (n,)."""
    return F.kl_div(other, one, reduction="none", log_target=True).sum(-1)


def beginning_and_rest(passage: str) -> tuple[str, str]:
    """The first sentence and the rest; halves of the words if there is only one sentence."""
    parts = re.split(r"(?<=[.!?])\s+", passage.strip(), maxsplit=1)
    if len(parts) == 2:
        return parts[0], parts[1]
    words = passage.split()
    if len(words) < 2:
        raise ValueError(f"the passage {passage!r} is too short; pass texts of some sentences")
    return " ".join(words[: len(words) // 2]), " ".join(words[len(words) // 2 :])


def _default_passages(session: Any) -> Sequence[str]:
    if session.host.name != "almanac":
        raise ValueError(
            f"the held-out prose of the Almanac is neutral text for the embedded host, not for "
            f"{session.host.name!r}; pass passages=[...], texts that its edits should not touch"
        )
    return almanac_prose("heldout")[:PASSAGES]


# Weights


def _trained_weights(session: Any) -> dict[str, Tensor]:
    """The weights of the editor at this step, by name; experts are shared with it, not copied."""
    adaptor = getattr(session.editor, "adaptor", None)
    if adaptor is not None:
        return dict(adaptor.experts.named_parameters())
    weights = session.host.model.state_dict()
    return {name: weights[name].detach().clone() for name in session.editor.changed_tensors()}


def _weight_changes(weights: dict[int, dict[str, Tensor]]) -> Iterator[Moved]:
    for batch, then in weights.items():
        for step, now in weights.items():
            if then and step >= max(batch, 1):
                count = sum(tensor.numel() for tensor in then.values())
                yield Moved(step, batch, "weight_change", count, relative_change(then, now))


@torch.no_grad()
def relative_change(then: dict[str, Tensor], now: dict[str, Tensor]) -> float:
    """``|now - then| / |then|`` over the tensors that were there then."""
    moved = size = 0.0
    for name, tensor in then.items():
        size += tensor.double().square().sum().item()
        if now[name] is not tensor:
            moved += (now[name].double() - tensor.double()).square().sum().item()
    return (moved / size) ** 0.5


# Routing values of the KV anchor


class AnchorDrift:
    """Routing values and margins of every edit's own prompt, step by step."""

    def __init__(self, session: Any) -> None:
        self.editor = session.editor
        edits = [(b.step, e) for b in session.stream.batches[: session.steps] for e in b]
        superseded = session.stream.superseded
        never = session.steps + 1
        self.batch = torch.tensor([step for step, _ in edits])  # (N,)
        self.until = torch.tensor([superseded.get(edit.id, never) for _, edit in edits])  # (N,)
        self.features = self.editor.prompt_features([edit.prompt for _, edit in edits])
        self.values: dict[int, Tensor] = {}  # (n, k) of the n edits learned by then
        self.margins: dict[int, Tensor] = {}  # (n,)

    @staticmethod
    def applies(session: Any) -> bool:
        adaptor = getattr(session.editor, "adaptor", None)
        return adaptor is not None and isinstance(adaptor.router, KVAnchorRouter)

    @torch.no_grad()
    def look(self, step: int) -> None:
        """Remember where the prompts of all batches up to ``step`` lie now."""
        router = self.editor.adaptor.router
        count = int((self.batch <= step).sum())
        features = self.features[:count]
        self.values[step] = router.value(features).cpu()
        if len(router.keys) > 1:
            self.margins[step] = own_margin(router.logits(features).cpu(), self.batch[:count] - 1)

    def rows(self) -> Iterator[Moved]:
        """Means over the edits of every batch."""
        for step, values in self.values.items():
            for batch in range(1, step + 1):
                chosen = self._counted(step, batch)
                if not len(chosen):
                    continue
                then = self.values[batch][chosen]
                cosine = F.cosine_similarity(values[chosen], then, dim=-1).mean().item()
                yield Moved(step, batch, "value_cosine", len(chosen), cosine)
                if step in self.margins:
                    margin = self.margins[step][chosen].mean().item()
                    yield Moved(step, batch, "margin", len(chosen), margin)

    def _counted(self, step: int, batch: int) -> Tensor:
        return ((self.batch == batch) & (self.until > step)).nonzero()[:, 0]


def own_margin(logits: Tensor, own: Tensor) -> Tensor:
    """By how much (n,) the logit of the ``own`` (n,) expert leads the best other of (n, T)."""
    mine = logits.gather(1, own[:, None])[:, 0]
    others = logits.scatter(1, own[:, None], float("-inf"))
    return mine - others.amax(1)
