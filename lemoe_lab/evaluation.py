"""Scores of a stream's edits as rows of the metrics table.

    evaluator = Evaluator(host, editor)
    rows = evaluator.measure(batch, step=3)

Every question (an edit's prompt, its rephrases, its locality prompts) is run through the lower
layers once. It is scored again only when its route, or a weight on its path, has changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

import pandas as pd
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from . import metrics
from .adaptor.routing import BYPASS, Routes
from .answers import Expected, normalise
from .editors.base import Editor
from .edits import Edit, EditBatch
from .host import Host
from .host.baseline import base_answers, base_states
from .host.decoding import LIMIT
from .host.encoding import TokenSequence
from .host.states import LayerStates, Score, length_buckets
from .host.surroundings import ordinarily

Checkpoint = Callable[[], None]
TEXT = "text"  # the group of passages, of which only the perplexity counts
BASE = ((BYPASS, 0.0, None),)  # the path of an input that no expert touches


@dataclass
class Question:
    """One prompt with what counts as right, and its latest score.

    ``target`` is None for a locality prompt that comes without one. ``expected`` is what a
    generated answer must say: one of the edit's answers, or for locality what the unedited host
    answers. ``fed_in`` and ``sequence``, what teacher-forced scores read, and ``base``, the score
    of the unedited host, are there once the evaluator has prepared the question.
    """

    edit: str
    batch: int
    metric: str
    group: str
    prompt: str
    target: str | None
    expected: tuple[str, ...]
    fed_in: str = field(init=False, repr=False)
    sequence: TokenSequence = field(init=False, repr=False)
    base: Score = field(init=False, repr=False)
    path: tuple | None = None
    values: dict[str, float] = field(default_factory=dict)  # by scorer

    @property
    def lacks_answer(self) -> bool:
        """Whether it is to be answered as by the unedited host, and nobody has asked that yet."""
        return self.metric == "locality" and (self.group != TEXT or not self.expected)

    def encode(self, host: Host) -> None:
        """Decide what is fed in: the target, else what is expected."""
        self.fed_in = self.target or self.expected[0] or "?"  # something has to be
        self.sequence = host.encode(self.prompt, self.fed_in, cut=self.target is None)


@dataclass
class Chunk:
    """Questions of similar length that run together."""

    questions: list[Question]
    states: LayerStates
    features: Tensor


@dataclass
class Prepared:
    """The questions of a batch that were prepared so far: those of these metrics."""

    batch: EditBatch
    metrics: set[str] = field(default_factory=set)
    chunks: list[Chunk] = field(default_factory=list)


@dataclass(frozen=True)
class Rescored:
    """A question with a path that is not the one it was last scored on, and its new score."""

    question: Question
    path: tuple
    score: Score

    def said(self, tokenizer: PreTrainedTokenizerBase, stop_token: int) -> bool | None:
        """Whether greedy decoding says what is expected; None where the score does not show it.

        Greedy decoding follows the target as long as that is the argmax, and leaves it where the
        argmax first is another token.
        """
        question, score = self.question, self.score
        expected = Expected(question.expected)
        if score.reproduced:
            return bool(expected.judge(question.fed_in))
        followed = int(score.correct.int().argmin())
        answer = [*score.target[:followed].tolist(), int(score.predicted[followed])]
        if len(answer) > LIMIT:
            return None
        ended = answer[-1] == stop_token
        return expected.judge(tokenizer.decode(answer, skip_special_tokens=True), ended)


class Evaluator:
    """Prepares questions of batches once and measures them as often as asked.

    Parameters
    ----------
    reuse
        Score again only what may have changed; False scores everything every time.
    """

    def __init__(
        self, host: Host, editor: Editor, batch_size: int = 128, reuse: bool = True
    ) -> None:
        self.host = host
        self.editor = editor
        self.batch_size = batch_size
        self.reuse = reuse
        self._prepared: dict[int, Prepared] = {}

    @ordinarily
    def measure(
        self,
        batches: EditBatch | Sequence[EditBatch],
        step: int,
        wanted: Iterable[str] = metrics.METRICS,
        checkpoint: Checkpoint | None = None,
        applied: Sequence[EditBatch] | None = None,
    ) -> list[metrics.Measurement]:
        """Rows of the metrics table for one batch or several, ``step`` batches being applied.

        ``checkpoint`` is called between two parts of the work; the host is in nobody's hands then.
        ``applied`` are all batches that are applied, if the measured ones are not: what these teach
        is not asked as locality.
        """
        batches = [batches] if isinstance(batches, EditBatch) else batches
        taught = taught_prompts(batches if applied is None else applied) if step else set()
        wanted, checkpoint = set(wanted), checkpoint or (lambda: None)
        chunks = [c for batch in batches for c in self._chunks(batch, wanted, checkpoint)]
        stale: list[Rescored] = []
        for chunk in chunks:
            checkpoint()
            stale += self._rescored(chunk, wanted)
        self._update(stale, checkpoint)
        return [
            metrics.Measurement(step, q.batch, q.edit, q.metric, q.group, scorer, value)
            for chunk in chunks
            for q in chunk.questions
            if q.metric in wanted and not (q.metric == "locality" and normalise(q.prompt) in taught)
            for scorer, value in q.values.items()
        ]

    def forget(self, step: int) -> None:
        """Drop the prepared questions of a batch."""
        self._prepared.pop(step, None)

    # Preparation

    def _chunks(self, batch: EditBatch, wanted: set[str], checkpoint: Checkpoint) -> list[Chunk]:
        """The questions of a batch; those of a metric are prepared when it is first wanted."""
        known = self._prepared.get(batch.step)
        if known is None or known.batch != batch:
            known = self._prepared[batch.step] = Prepared(batch)
        missing = wanted - known.metrics
        if missing:
            known.chunks += self._prepare(batch, missing, checkpoint)
            known.metrics |= missing
        return known.chunks

    def _prepare(self, batch: EditBatch, wanted: set[str], checkpoint: Checkpoint) -> list[Chunk]:
        asked = (question for edit in batch for question in questions_of(edit, batch.step))
        questions = [question for question in asked if question.metric in wanted]
        unanswered = [question for question in questions if question.lacks_answer]
        for start in range(0, len(unanswered), self.batch_size):
            checkpoint()
            some = unanswered[start : start + self.batch_size]
            with self.editor.disabled():
                answers = base_answers(self.host, [question.prompt for question in some])
            for question, answer in zip(some, answers, strict=True):
                question.expected = (answer,)
        for question in questions:
            question.encode(self.host)
        chunks = []
        for rows in length_buckets([q.sequence for q in questions], self.batch_size):
            checkpoint()
            with self.editor.disabled():
                chunks.append(self._chunk([questions[i] for i in rows]))
        return chunks

    def _chunk(self, questions: list[Question]) -> Chunk:
        base = base_states(self.host, [q.sequence for q in questions], self.editor.layer)
        for question, score in zip(questions, base.scores, strict=True):
            question.base = score
        return Chunk(questions, base.states, self.editor.features(base.states))

    # Scoring

    def _rescored(self, chunk: Chunk, wanted: set[str]) -> list[Rescored]:
        """New teacher-forced scores of the wanted questions whose score may have changed."""
        questions = chunk.questions
        routes = self.editor.routes(chunk.features)
        paths = self._paths(routes, len(questions))
        stale = [
            i
            for i, (question, path) in enumerate(zip(questions, paths, strict=True))
            if question.metric in wanted and not (self.reuse and question.path == path)
        ]
        touched = [i for i in stale if not (self.reuse and paths[i] == BASE)]
        scores = {}
        if touched:
            rows = torch.tensor(touched, device=self.host.device)
            with torch.no_grad(), self.editor.scoring(None if routes is None else routes[rows]):
                hidden = self.host.finish(chunk.states, self.editor.layer, rows)
            sequences = [questions[i].sequence for i in touched]
            scores = dict(zip(touched, self.host.score_hidden(hidden, sequences), strict=True))
        return [Rescored(questions[i], paths[i], scores.get(i, questions[i].base)) for i in stale]

    def _paths(self, routes: Routes | None, count: int) -> list[tuple]:
        """What every answer hangs on: equal paths of a question give equal answers."""
        if routes is None:
            return [(self.editor.version,)] * count
        version = {
            expert: self.editor.expert_version(expert) for expert in routes.expert.unique().tolist()
        }
        rows = zip(routes.expert.tolist(), routes.gate.tolist(), strict=True)
        return [
            tuple((e, gate, version[e]) for e, gate in zip(experts, gates, strict=True))
            for experts, gates in rows
        ]

    def _update(self, stale: Sequence[Rescored], checkpoint: Checkpoint) -> None:
        """Bring the values of rescored questions up to date.

        Greedy decoding is left out where the score shows what it would come to.
        """
        asked_for = [r for r in stale if r.question.group != TEXT]
        said = {
            id(rescored): rescored.said(self.host.tokenizer, self.host.stop_token)
            for rescored in asked_for
        }
        open_ = [rescored for rescored in asked_for if said[id(rescored)] is None]
        open_.sort(key=lambda rescored: len(rescored.question.sequence.prompt))
        for start in range(0, len(open_), self.batch_size):
            checkpoint()
            asked = open_[start : start + self.batch_size]
            prompts = [rescored.question.prompt for rescored in asked]
            expected = [rescored.question.expected for rescored in asked]
            answers = self.host.exact_match(prompts, expected, batch_size=self.batch_size)
            said |= zip(map(id, asked), answers, strict=True)
        for rescored in stale:
            question = rescored.question
            question.path = rescored.path
            question.values = question_values(question, rescored.score, said.get(id(rescored)))


def taught_prompts(batches: Sequence[EditBatch]) -> set[str]:
    """The prompts and rephrases of edits, as they are compared."""
    edits = [edit for batch in batches for edit in batch]
    return {normalise(p) for e in edits for p in (e.prompt, *(r.prompt for r in e.rephrases))}


def questions_of(edit: Edit, batch: int = 0) -> Iterator[Question]:
    """What is asked of an edit: its prompt, its rephrases, its locality prompts."""
    ask = partial(Question, edit.id, batch)
    yield ask("reliability", "", edit.prompt, edit.target, edit.answers)
    for rephrase in edit.rephrases:
        yield ask("generality", rephrase.group, rephrase.prompt, edit.target, edit.answers)
    for near in edit.locality:
        expected = (near.target,) if near.target else ()
        yield ask("locality", near.group, near.prompt, near.target, expected)


def target_perplexity(host: Host, edits: Sequence[Edit], batch_size: int = 64) -> pd.DataFrame:
    """How surprised the host is now by the targets of edits, with whatever is attached.

    exp of the mean negative log-probability of the target's tokens after the prompt, the stop token
    left out; 1 is certainty, lower is better. Its mean over the edits is what GRACE (ERR, arXiv
    2211.11031) and WISE (Rel., arXiv 2405.14768) report for hallucination data, where targets are
    whole sentences. It is not bounded, so it is no value of ``session.metrics``.

    Returns
    -------
    pandas.DataFrame
        One row per prompt and rephrase: ``edit`` (its id), ``metric`` (``reliability`` or
        ``generality``), ``group`` and ``perplexity``.
    """
    asked = [q for edit in edits for q in questions_of(edit) if q.metric != "locality"]
    scores = host.score([q.prompt for q in asked], [q.target for q in asked], batch_size)
    columns = {name: [getattr(q, name) for q in asked] for name in ("edit", "metric", "group")}
    perplexities = [metrics.perplexity(score.log_probabilities[:-1]) for score in scores]
    return pd.DataFrame(columns | {"perplexity": perplexities})


def question_values(question: Question, score: Score, said: bool | None) -> dict[str, float]:
    """Both scorers' values of one question; of a passage of text, whose answer nobody asks, one."""
    base = question.base
    if question.group == TEXT:
        ratio = metrics.perplexity_ratio(
            metrics.perplexity(base.log_probabilities[:-1]),
            metrics.perplexity(score.log_probabilities[:-1]),
        )
        return {"teacher_forced": ratio}
    if question.metric == "locality":
        kept = (score.predicted == base.predicted)[:-1]
        return {
            "teacher_forced": metrics.token_accuracy(kept),
            "generated": float(said),
        }
    return {
        "teacher_forced": metrics.token_accuracy(score.correct[:-1]),
        "generated": float(said),
    }
