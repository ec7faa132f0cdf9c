"""Causal tracing: which layers carry a fact (ROME, arXiv 2202.05262, section 2).

table = causal_tracing(host, stream.calibration[:200])
tracing_summary(table)                        # mean effect and interval of every part and layer
layers_with_most_effect(table, part="ffn", token="last subject")
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from typing import Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from ..edits import CalibrationFact, Edit, EditError
from ..host import Host
from ..host.architectures import ATTENTION_NAMES, find_attention
from ..host.encoding import TokenSequence
from ..host.hooks import hung, on_output
from ..host.subjects import subject_span
from .bootstrap import interval, mean

Part = Literal["state", "ffn", "attention"]

PARTS: tuple[Part, ...] = ("state", "ffn", "attention")
WHOLE = "whole subject"
TOKENS = (
    WHOLE,
    "first subject",
    "middle subject",
    "last subject",
    "first after",
    "further after",
    "last prompt",
)
RUN_COLUMNS = ["answer", "clean", "corrupted"]
SETTINGS = ["host", "seed", "noise", "samples", "window"]
ROWS_AT_ONCE = 256


def causal_tracing(
    host: Host,
    facts: Sequence[Edit | CalibrationFact],
    noise: float = 3.0,
    samples: int = 10,
    window: int = 1,
    seed: int = 0,
    progress: bool = True,
) -> pd.DataFrame:
    """How much of a fact comes back when one part of the clean run is put into a corrupted one.

        clean      P[o]            o is the first token of the host's own answer to the prompt
        corrupted  P*[o]           with noise on the embeddings of the subject's tokens
        restored   P*, clean h[o]  the same, with one part h at one token as in the clean run

        indirect effect = restored - corrupted,  total effect = clean - corrupted

    Probabilities are means over the draws of noise and over the tokens of a group. One row per
    fact, part, layer and group of tokens; columns: host, seed, noise, samples, window, fact (the
    id of an edit, the prompt of a calibration fact), answer (the token o), part, layer, token,
    clean, corrupted, restored, effect (the indirect one).

    ``part``
        ``state`` is the output of a decoder layer, ``ffn`` and ``attention`` are what these add.
    ``token``
        ``first subject``, ``middle subject``, ``last subject``, ``first after``, ``further after``
        and ``last prompt`` are restored one token at a time. A token that could be two of these is
        the later one; a group that a prompt lacks has no row. Noise does not reach the tokens
        before the subject: they are left out. ``whole subject`` (not in the paper) restores all
        tokens of the subject together: a name of many tokens may have no single one that tells it.

    The state of the last layer at the last prompt token is the whole answer, so that its indirect
    effect is the total effect on any host.

    Parameters
    ----------
    facts
        Edits or calibration facts (their first phrasing). Take facts that the host knows.
    noise
        Standard deviation of the noise, in standard deviations of the embeddings of the subjects
        of all ``facts``.
    samples
        Draws of noise per fact.
    window
        How many neighbouring layers have their FFN or attention restored together (the paper: 10
        of 48); states are restored one at a time.
    seed
        Decides the noise, which for one prompt is the same whatever is traced beside it.

    Raises
    ------
    EditError
        For a fact without a subject, or whose prompt does not contain it.
    RuntimeError
        If the host is being edited.
    ValueError
        For an impossible setting, a fact given twice, or a host whose attention is not found.
    """
    host.require_free()
    _check_settings(noise, samples, window)
    prompts = [traced_prompt(host, fact) for fact in facts]
    _check_names(prompts)
    scale = noise * _deviation(host, prompts)
    rows = _rows(prompts, samples)
    places = list(product(PARTS, range(len(host.layers))))
    # One array for all results: small ones between large tensors would keep their memory in pieces.
    measured = np.empty((len(rows), len(RUN_COLUMNS) + len(places)))
    starts = range(0, len(rows), ROWS_AT_ONCE)
    for start in tqdm(starts, desc="causal tracing", disable=not progress, leave=False):
        chunk = slice(start, start + ROWS_AT_ONCE)
        run = _corrupted_run(host, prompts, rows[chunk], scale, samples, seed)
        measured[chunk] = _measure(run, rows[chunk], places, window)
    table = _by_fact_and_token(measured, rows, places)
    settings = dict(zip(SETTINGS, (host.name, seed, noise, samples, window), strict=True))
    table = table.assign(
        fact=[prompts[i].name for i in table["prompt"]],
        answer=[host.tokenizer.decode([int(i)]).strip() for i in table["answer"]],
        effect=table["restored"] - table["corrupted"],
        **settings,
    )
    probabilities = ["clean", "corrupted", "restored", "effect"]
    return table[[*SETTINGS, "fact", "answer", "part", "layer", "token", *probabilities]]


def tracing_summary(table: pd.DataFrame, resamples: int = 2000, seed: int = 0) -> pd.DataFrame:
    """Mean indirect effect of every part, layer and group of tokens, with its 95% interval.

    Columns: part, layer, token, facts (that have such tokens), effect, low, high (percentile
    bootstrap over facts, decided by ``seed``), total (mean total effect of these facts). Several
    seeds of one fact are averaged first. ``table`` comes from ``causal_tracing`` on one host.
    """
    hosts = table["host"].unique()
    if len(hosts) != 1:
        raise ValueError(
            f"a summary is about one host, the table has {', '.join(hosts) or 'no rows'}; filter it"
        )
    total = table["clean"] - table["corrupted"]
    cell = ["part", "layer", "token"]
    by_fact = table.assign(total=total).groupby([*cell, "fact"], sort=False)
    by_fact = by_fact[["effect", "total"]].mean()
    summaries = []
    for key, of_cell in by_fact.groupby(cell, sort=False):
        effects = of_cell["effect"].to_numpy()
        low, high = interval(mean, effects, resamples=resamples, seed=seed)
        row = {"facts": len(effects), "effect": effects.mean(), "low": low, "high": high}
        summaries.append(
            dict(zip(cell, key, strict=True)) | row | {"total": of_cell["total"].mean()}
        )
    return pd.DataFrame(summaries)


def layers_with_most_effect(
    table: pd.DataFrame, part: Part = "ffn", token: str = "last subject", count: int = 1
) -> list[int]:
    """The ``count`` layers whose ``part`` at ``token`` brings back most of a fact, strongest first.

    ``table`` comes from ``causal_tracing``; effects are means over facts.
    """
    chosen = table[(table["part"] == part) & (table["token"] == token)]
    effects = chosen.groupby("layer")["effect"].mean()
    if not 1 <= count <= len(effects):
        held = table[["part", "token"]].drop_duplicates().agg(" at ".join, axis=1)
        raise ValueError(
            f"cannot choose {count} of {len(effects)} layers with {part!r} at {token!r}; the table "
            f"has {table['layer'].nunique()} layers with {', '.join(held) or 'nothing'}"
        )
    return effects.sort_values(ascending=False, kind="stable").index[:count].tolist()


# Prompts


@dataclass(frozen=True)
class TracedPrompt:
    """A fact as the host reads it; ``subject`` is the first token of it and the one after it."""

    name: str
    tokens: TokenSequence
    subject: tuple[int, int]

    @property
    def restorations(self) -> list[tuple[int, int, str]]:
        """What is restored in turn: the first token, the one after the last, what they are."""
        single = [(place, place + 1, token) for place, token in sorted(self._groups.items())]
        return [(*self.subject, WHOLE), *single]

    @property
    def _groups(self) -> dict[int, str]:
        """The group of every token from the subject on."""
        start, end = self.subject
        last = len(self.tokens) - 1
        groups = {
            **dict.fromkeys(range(start, end), "middle subject"),
            **dict.fromkeys(range(end, last), "further after"),
        }
        # The later group of a token wins.
        return groups | {
            start: "first subject",
            end - 1: "last subject",
            min(end, last): "first after",
            last: "last prompt",
        }

    def noise(self, samples: int, width: int, seed: int) -> Tensor:
        """Standard normal noise for the subject's tokens, (samples, tokens, width)."""
        key = zlib.crc32(repr((seed, self.tokens.prompt)).encode())
        generator = torch.Generator().manual_seed(key)
        return torch.randn(samples, self.subject[1] - self.subject[0], width, generator=generator)


def traced_prompt(host: Host, fact: Edit | CalibrationFact) -> TracedPrompt:
    """The prompt of an edit, or the first one of a calibration fact; errors name it."""
    if isinstance(fact, Edit):
        name, prompt, called = fact.id, fact.prompt, f"edit {fact.id!r}"
    else:
        name, prompt, called = fact.prompts[0], fact.prompts[0], "calibration fact"
    if fact.subject is None:
        raise EditError(
            f"{called} has no subject, and tracing puts noise on the subject's tokens; give it "
            'subject="..." as it stands in the prompt, or leave it out'
        )
    try:
        span = subject_span(host, prompt, fact.subject)
    except EditError as error:
        raise EditError(f"{called}: {error}") from None
    return TracedPrompt(name, TokenSequence(host.encode_prompt(prompt), ()), span)


def _check_settings(noise: float, samples: int, window: int) -> None:
    if noise < 0:
        raise ValueError(f"noise must be at least 0 standard deviations, not {noise}; 3 is usual")
    for name, value in (("samples", samples), ("window", window)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, not {value}")


def _check_names(prompts: Sequence[TracedPrompt]) -> None:
    if not prompts:
        raise ValueError("no facts to trace; pass some edits, or some of stream.calibration")
    names = pd.Series([prompt.name for prompt in prompts])
    for name in names[names.duplicated()]:
        raise ValueError(f"the fact {name!r} is given twice; give each fact once")


# Running


def attention(host: Host, layer: int) -> nn.Module:
    """The attention module of a decoder layer (counted from 0)."""
    block = host.layers[layer]
    found = find_attention(block)
    if found is None:
        children = ", ".join(name for name, _ in block.named_children())
        raise ValueError(
            f"no attention found in layer {layer} of {host.name} ({type(block).__name__}): "
            f"expected a child named {', '.join(ATTENTION_NAMES)}, it has {children}"
        )
    return found


class CorruptedRun:
    """Prompts with noise on their embeddings, into which parts of their clean run can be put.

    Parameters
    ----------
    prompts
        P prompts, padded to L tokens.
    rows
        The prompt of each row, (R,).
    noise
        What is added to the embeddings of each row, (R, L, d).

    Attributes
    ----------
    answers, clean, corrupted
        The answer's token, its probability in the clean and in the corrupted run, (R,) each.
    """

    @torch.no_grad()
    def __init__(
        self, host: Host, prompts: Sequence[TracedPrompt], rows: Tensor, noise: Tensor
    ) -> None:
        layers = range(len(host.layers))
        self.host, self.rows, self.length = host, rows, noise.shape[1]
        self.modules: dict[Part, list[nn.Module]] = {
            "state": list(host.layers),
            "ffn": [host.ffn(layer) for layer in layers],
            "attention": [attention(host, layer) for layer in layers],
        }
        sequences = [prompt.tokens for prompt in prompts]
        self.sequences = [sequences[row] for row in rows.tolist()]
        self._last = torch.tensor([len(s) - 1 for s in self.sequences], device=host.device)

        every = [module for modules in self.modules.values() for module in modules]
        with _collected(every) as self._outputs:
            final = host.states(sequences, 0).final[rows]  # (R, L, d)
        clean = self._predict(final)  # (R, V)
        self.answers = clean.argmax(-1)
        self.clean = self._answer_in(clean)

        embedding = host.model.get_input_embeddings()
        corrupt = {embedding: lambda output: output + noise.to(output)}
        with _changed(corrupt), _collected(self.modules["state"]) as outputs:
            self._states = host.states(self.sequences, 0)
        self._between = [self._states.hidden, *map(outputs.get, host.layers)]
        self.corrupted = self._answer_in(self._predict(self._states.final))

    @torch.no_grad()
    def restored(self, part: Part, layers: Sequence[int], tokens: Tensor) -> Tensor:
        """Probability of the answers (R,) with the clean ``part`` of ``layers`` at ``tokens``.

        ``tokens`` (R, L) is True where the part is restored.
        """
        # Below the lowest restored layer the run is the corrupted one.
        lowest = min(layers)
        modules = [self.modules[part][layer] for layer in layers]
        with _changed({module: partial(self._put_back, module, tokens) for module in modules}):
            final = self._run_from(lowest, self._between[lowest])
        return self._answer_in(self._predict(final))

    def _put_back(self, module: nn.Module, tokens: Tensor, output: Tensor) -> Tensor:
        return torch.where(tokens[..., None], self._outputs[module][self.rows], output)

    def _run_from(self, layer: int, hidden: Tensor) -> Tensor:
        arguments = self._states.arguments[layer:]
        return self.host.finish(replace(self._states, hidden=hidden, arguments=arguments), layer)

    def _predict(self, final: Tensor) -> Tensor:
        """Next-token probabilities (R, V) after the prompts, from ``final`` (R, L, d)."""
        ends = final[torch.arange(len(final), device=final.device), self._last]
        return self.host.logits(ends).float().softmax(-1)

    def _answer_in(self, probabilities: Tensor) -> Tensor:
        return probabilities.gather(1, self.answers[:, None])[:, 0]


Change = Callable[[Tensor], Tensor | None]


@contextmanager
def _changed(changes: Mapping[nn.Module, Change]) -> Iterator[None]:
    """Until the block ends, modules put out what their change makes of their (first) output.

    A change that returns None leaves the output alone.
    """

    with hung(*(on_output(m, lambda _x, output, c=c: c(output)) for m, c in changes.items())):
        yield


@contextmanager
def _collected(modules: Sequence[nn.Module]) -> Iterator[dict[nn.Module, Tensor]]:
    """The (first) output of every module in the forward pass of the block."""
    outputs: dict[nn.Module, Tensor] = {}
    with _changed({module: partial(outputs.__setitem__, module) for module in modules}):
        yield outputs


# Measuring


def _rows(prompts: Sequence[TracedPrompt], samples: int) -> pd.DataFrame:
    """One row for every prompt, draw of noise and restoration, the shortest prompts first."""
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i].tokens))
    return pd.DataFrame(
        [
            (i, sample, *restoration)
            for i in order
            for sample in range(samples)
            for restoration in prompts[i].restorations
        ],
        columns=["prompt", "sample", "start", "end", "token"],
    )


def _deviation(host: Host, prompts: Sequence[TracedPrompt]) -> float:
    """Standard deviation of the embeddings of all subjects, over tokens and dimensions."""
    ids = [i for prompt in prompts for i in prompt.tokens.prompt[slice(*prompt.subject)]]
    embedding = host.model.get_input_embeddings()
    with torch.no_grad():
        return embedding(torch.tensor(ids, device=host.device)).float().std().item()


def _corrupted_run(
    host: Host,
    prompts: Sequence[TracedPrompt],
    rows: pd.DataFrame,
    scale: float,
    samples: int,
    seed: int,
) -> CorruptedRun:
    codes, used = pd.factorize(rows["prompt"])
    width = host.model.get_input_embeddings().weight.shape[1]
    noise = torch.zeros(len(rows), max(len(prompts[i].tokens) for i in used), width)
    draws = {i: prompts[i].noise(samples, width, seed) for i in used}
    for row, (i, sample) in enumerate(zip(rows["prompt"], rows["sample"], strict=True)):
        noise[row, slice(*prompts[i].subject)] = draws[i][sample]
    places = torch.tensor(codes, device=host.device)
    return CorruptedRun(host, [prompts[i] for i in used], places, scale * noise.to(host.device))


def _measure(
    run: CorruptedRun, rows: pd.DataFrame, places: Sequence[tuple[Part, int]], window: int
) -> Tensor:
    """RUN_COLUMNS of every row, and its restored probability at every place, (R, columns)."""
    bounds = torch.tensor(rows[["start", "end"]].to_numpy(), device=run.rows.device)  # (R, 2)
    position = torch.arange(run.length, device=run.rows.device)
    tokens = (bounds[:, :1] <= position) & (position < bounds[:, 1:])  # (R, L)
    layers = len(run.modules["state"])
    restored = [
        run.restored(part, _around(layer, 1 if part == "state" else window, layers), tokens)
        for part, layer in places
    ]
    columns = [run.answers, run.clean, run.corrupted, *restored]
    return torch.stack([column.double() for column in columns], 1).cpu()


def _around(layer: int, size: int, layers: int) -> range:
    """``size`` neighbouring layers with ``layer`` in their middle, fewer at the ends."""
    return range(max(0, layer - size // 2), min(layers, layer + (size + 1) // 2))


def _by_fact_and_token(
    measured: np.ndarray, rows: pd.DataFrame, places: Sequence[tuple[Part, int]]
) -> pd.DataFrame:
    """Means over draws of noise and over the tokens of a group, in the order of the facts."""
    runs, restored = np.split(measured, [len(RUN_COLUMNS)], axis=1)
    runs = pd.DataFrame(runs, columns=RUN_COLUMNS).groupby(rows["prompt"]).mean()
    columns = pd.MultiIndex.from_tuples(places, names=["part", "layer"])
    restored = pd.DataFrame(restored, pd.MultiIndex.from_frame(rows[["prompt", "token"]]), columns)
    means = restored.groupby(level=["prompt", "token"]).mean()
    table = means.stack(["part", "layer"], future_stack=True).rename("restored").reset_index()
    rank = {name: place for names in (PARTS, TOKENS) for place, name in enumerate(names)}
    table = table.sort_values(
        ["prompt", "part", "layer", "token"],
        key=lambda column: column.map(rank) if column.name in ("part", "token") else column,
        ignore_index=True,
    )
    return table.join(runs, on="prompt")
