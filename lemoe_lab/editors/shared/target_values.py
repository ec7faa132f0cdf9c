"""Where edits look their facts up, and what has to stand there.

    lookups = look_up(host, batch, sequences, openings, config)
    size = value_sizes(host, lookups, layer, host.layers[layer])      # before the first edit
    values = target_values(host, lookups, layer, host.layers[layer], size, config)
    values.shift                                  # (n, d), one vector for every edit

Shared by the methods that locate a fact at one token of one layer and then edit the weight that is
read there.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from pydantic import Field, field_validator
from torch import Tensor, nn
from torch.nn import functional as F

from ...edits import Edit, EditBatch
from ...host import Host
from ...host.encoding import TokenSequence
from ...host.hooks import hung, on_output
from ...host.states import LayerStates
from ...host.statistics import TextSample, recorded
from ...host.subjects import edit_subject_span, subject_span
from ..base import EditorConfig, OnStep


class TargetValueConfig(EditorConfig):
    """Settings of every editor that optimises value vectors.

    Parameters
    ----------
    layer
        The decoder layer, from 0, whose output the value vectors change.
    token
        Where facts are looked up: at the last token of the ``"subject"``, as in the papers, or of
        the ``"prompt"``. The embedded host's names are invented words of many tokens, and causal
        tracing finds no fact at their last one; batches of edits only hold at the prompt's.
    openings, opening_tokens
        Facts are also looked up after this many pieces of the host's own text, this long, so that
        a key does not stand for a prompt at the start of a text alone. The papers take 5 to 50;
        the embedded host has read one sentence at a time and gets none.
    steps, learning_rate, loss_threshold
        Adam takes at most ``steps`` steps, fewer for an edit whose target's mean negative
        log-likelihood is below ``loss_threshold``. The rate is relative to the root mean square
        of the unedited host's value at the same place.
    kl_weight, essence
        Weight of the divergence that keeps what the host says after ``essence``, in which ``{}``
        stands for the subject.
    weight_decay
        Weight of the squared size of the change relative to the unedited host's value.
    clamp
        The largest size of the change relative to the unedited host's value.
    text_tokens, text_length, texts
        Statistics are taken over ``texts`` or, if there are none, over so many tokens that the
        host writes itself, in texts of at most ``text_length`` tokens.
    """

    layer: int | None = Field(None, ge=0)
    token: Literal["subject", "prompt"] = "prompt"
    openings: int = Field(0, ge=0)
    opening_tokens: int = Field(6, ge=1)
    steps: int = Field(30, ge=1)
    learning_rate: float = Field(0.2, gt=0)
    loss_threshold: float = Field(0.02, ge=0)
    kl_weight: float = Field(0.0625, ge=0)
    essence: str = "{} is a"
    weight_decay: float = Field(0.1, ge=0)
    clamp: float = Field(1.0, gt=0)
    text_tokens: int = Field(20_000, ge=1)
    text_length: int = Field(32, ge=2)
    texts: tuple[str, ...] = ()
    learning_only: ClassVar = ("texts",)

    @field_validator("essence")
    @classmethod
    def _names_the_subject(cls, text: str) -> str:
        if text.count("{}") != 1:
            raise ValueError(f"must contain {{}} once, where the subject stands; got {text!r}")
        return text

    @property
    def sample(self) -> TextSample:
        """The text that statistics are taken over."""
        return TextSample(self.text_tokens, self.text_length, self.seed, self.texts)


@dataclass(frozen=True)
class Lookups:
    """Every edit of a batch in every context, and the token where its fact is looked up.

    Row ``c * n + i`` of ``sequences`` is edit i in context c: its prompt as it is, then after each
    opening; the last n rows are the essence prompts. ``token`` (rows,) is where the
    fact is looked up. ``weights`` (C,) weigh the contexts: the prompt as it is as much as all
    openings together.
    """

    sequences: list[TokenSequence]
    token: Tensor
    weights: Tensor

    @property
    def edits(self) -> int:
        return len(self.sequences) // (len(self.weights) + 1)

    def rows(self, edits: Tensor) -> Tensor:
        """The rows of some edits (k,) in all contexts, context after context: ((C + 1) * k,)."""
        contexts = torch.arange(len(self.weights) + 1, device=edits.device)
        return (contexts[:, None] * self.edits + edits).flatten()

    def average(self, vectors: Tensor) -> Tensor:
        """Weighted mean over contexts of vectors (rows, d), without essence prompts: (n, d)."""
        asked = vectors[: -self.edits].unflatten(0, (len(self.weights), self.edits))
        return torch.einsum("c,cnd->nd", self.weights.to(vectors.dtype), asked)

    def at_token(self, hidden: Tensor) -> Tensor:
        """The vectors (rows, d) of hidden states (rows, L, d) at the edited tokens."""
        return hidden[torch.arange(len(hidden), device=hidden.device), self.token]

    def only(self, edit: int) -> Lookups:
        """The lookups of one edit."""
        rows = self.rows(torch.tensor([edit], device=self.token.device))
        sequences = [self.sequences[row] for row in rows.tolist()]
        return Lookups(sequences, self.token[rows], self.weights)


@dataclass(frozen=True)
class TargetValues:
    """What stands after every edit's prompt, and what is to be added to it.

    ``value`` (n, d), ``shift`` (n, d); ``losses`` is their mean loss at every step.
    """

    value: Tensor
    shift: Tensor
    losses: list[float]


def require_subjects(host: Host, edits: Iterable[Edit]) -> None:
    """Raise :class:`EditError` for the first edit whose subject cannot be located."""
    for edit in edits:
        edit_subject_span(host, edit)


def look_up(
    host: Host,
    batch: EditBatch,
    sequences: Sequence[TokenSequence],
    openings: Tensor,
    config: TargetValueConfig,
) -> Lookups:
    """Locate the facts of a batch in all contexts.

    Raises
    ------
    EditError
        If an edit has no subject, or its prompt does not contain it.
    """
    require_subjects(host, batch)
    rows = list(sequences)
    prompts = [(edit.prompt, edit.subject) for edit in batch]
    for ids in openings.tolist():
        opening = host.tokenizer.decode(ids, skip_special_tokens=True).strip(" .\n")
        later = [(host.encoding.after(f"{opening}. ", edit.prompt), edit.subject) for edit in batch]
        rows += [
            host.encode(prompt, edit.target) for (prompt, _), edit in zip(later, batch, strict=True)
        ]
        prompts += later
    essence = [(config.essence.format(edit.subject), edit.subject) for edit in batch]
    rows += [TokenSequence(host.encode_prompt(text), (host.stop_token,)) for text, _ in essence]
    if config.token == "subject":
        token = [subject_span(host, *pair)[1] - 1 for pair in prompts + essence]
    else:
        token = [len(row.prompt) - 1 for row in rows]
    weights = torch.ones(1 + len(openings), device=host.device)
    weights[1:] /= max(1, len(openings))
    return Lookups(rows, torch.tensor(token, device=host.device), weights / weights.sum())


def value_sizes(host: Host, lookups: Lookups, layer: int, place: nn.Module) -> Tensor:
    """Norms (n,) of the values after the plain prompts, to be measured on the unedited host.

    Changes are measured by these and not by the values of the day: each batch would make the next
    one's steps larger, until the weights overflow.
    """
    return _values(host, lookups, layer, place)[0].norm(dim=1)


def _values(
    host: Host, lookups: Lookups, layer: int, place: nn.Module
) -> tuple[Tensor, LayerStates]:
    """What ``place`` puts out after the plain prompts (n, d), and what enters the layer."""
    with recorded([place]) as calls:
        states = host.states(lookups.sequences, layer)
    return lookups.at_token(calls[place][1])[: lookups.edits].float(), states


def target_values(
    host: Host,
    lookups: Lookups,
    layer: int,
    place: nn.Module,
    size: Tensor,
    config: TargetValueConfig,
    on_step: OnStep | None = None,
) -> TargetValues:
    """Small changes where facts are looked up that make the host, as it is now, say the targets.

    ``place`` is the module of decoder layer ``layer`` whose output (rows, L, d) is changed;
    ``size`` (n,) is what :func:`value_sizes` found. All edits run together; each has its own loss,
    its own Adam state and its own end.
    """
    value, states = _values(host, lookups, layer, place)
    essence = slice(-lookups.edits, None)
    before = host.target_logits(states.final[essence], lookups.sequences[essence]).log_softmax(-1)
    unit = size[:, None] / value.shape[1] ** 0.5
    change = nn.Parameter(torch.zeros_like(value))
    optimizer = torch.optim.Adam([change], lr=config.learning_rate)
    open_ = torch.arange(lookups.edits, device=host.device)
    last = torch.full((lookups.edits,), torch.inf, device=host.device)
    losses: list[float] = []
    for step in range(config.steps):
        likelihood, divergence = _losses(
            host, states, lookups, place, layer, change * unit, open_, before
        )
        decay = change[open_].square().mean(1)
        total = likelihood + config.kl_weight * divergence + config.weight_decay * decay
        last[open_] = total.detach()
        losses.append(last.mean().item())
        if on_step:
            on_step(step + 1, config.steps, losses[-1])
        unfinished = likelihood.detach() >= config.loss_threshold
        if not unfinished.any():
            break
        optimizer.zero_grad()
        total[unfinished].sum().backward()
        open_ = open_[unfinished]
        with torch.no_grad():
            finished = change.clone()
            optimizer.step()
            length = change.square().mean(1, keepdim=True).sqrt()
            finished[open_] = (change * (config.clamp / length).clamp(max=1))[open_]
            change.copy_(finished)
    return TargetValues(value, (change * unit).detach(), losses)


def _losses(
    host: Host,
    states: LayerStates,
    lookups: Lookups,
    place: nn.Module,
    layer: int,
    shift: Tensor,
    edits: Tensor,
    before: Tensor,
) -> tuple[Tensor, Tensor]:
    """Negative log-likelihood per target token, and divergence after the essence prompt, (k,)."""
    rows = lookups.rows(edits)
    sequences = [lookups.sequences[row] for row in rows.tolist()]
    with shifted(place, lookups.token[rows], shift[edits].repeat(len(lookups.weights) + 1, 1)):
        hidden = host.finish(states, layer, rows)
    asked = len(rows) - len(edits)
    logits = host.target_logits(hidden, sequences)  # (sum of target lengths, V)
    lengths = torch.tensor([len(s.target) for s in sequences[:asked]], device=host.device)
    row = torch.arange(asked, device=host.device).repeat_interleave(lengths)
    token_losses = F.cross_entropy(
        logits[: len(row)], host.target_ids(sequences[:asked]), reduction="none"
    )
    means = torch.zeros(asked, device=host.device).index_add(0, row, token_losses / lengths[row])
    likelihood = lookups.weights @ means.unflatten(0, (len(lookups.weights), len(edits)))
    after = logits[len(row) :].log_softmax(-1)
    divergence = (after.exp() * (after - before[edits])).sum(-1)
    return likelihood, divergence


@contextmanager
def shifted(module: nn.Module, tokens: Tensor, shift: Tensor) -> Iterator[None]:
    """Add ``shift`` (B, d) to the module's output (B, L, d) at one token (B,) of every row."""

    def add(_x: Tensor, output: Tensor) -> Tensor:
        rows = torch.arange(len(tokens), device=tokens.device)
        return output.index_put((rows, tokens), shift.to(output.dtype), accumulate=True)

    with hung(on_output(module, add)):
        yield
