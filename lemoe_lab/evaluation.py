"""Scores of a stream's edits as rows of the metrics table.

    evaluator = Evaluator(host, editor)
    rows = evaluator.measure(batch, step=3)

Every question (an edit's prompt, its rephrases, its locality prompts) is run through the lower
layers once. It is scored again only when its route, or a weight on its path, has changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

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
Asked = tuple[str, str, str, str, str | None, tuple[str, ...]]  # ..., fed in, right answers
TEXT = "text"  # the group of passages, of which only the perplexity counts
BASE = ((BYPASS, 0.0, None),)  # the path of an input that no expert touches


@dataclass
class Question:
    """One prompt with what counts as right, and its latest score.

    ``target`` is fed in for teacher-forced scores; ``expected`` is what a generated answer must
    say: one of the edit's answers, or for locality what the unedited host answers.
    """

    edit: str
    batch: int
    metric: str
    group: str
    prompt: str
    target: str
    expected: tuple[str, ...]
    sequence: TokenSequence
    base: Score | None = None
    path: tuple | None = None
    values: dict[str, float] = field(default_factory=dict)  # by scorer


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
            return bool(expected.judge(question.target))
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
    ) -> list[tuple]:
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
            (step, q.batch, q.edit, q.metric, q.group, scorer, value)
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
        asked = [q for edit in batch for q in self._questions(edit) if q[1] in wanted]
        unknown = [
            prompt
            for _, metric, group, prompt, _, answers in asked
            if expects_base_answer(metric, group, answers)
        ]
        known: list[str] = []
        for start in range(0, len(unknown), self.batch_size):
            checkpoint()
            with self.editor.disabled():
                known += base_answers(self.host, unknown[start : start + self.batch_size])
        of_base = iter(known)
        questions = []
        for edit, metric, group, prompt, target, answers in asked:
            expected = answers
            if expects_base_answer(metric, group, answers):
                expected = (next(of_base),)
            text = target or expected[0] or "?"  # something has to be fed in
            sequence = self.host.encode(prompt, text, cut=target is None)
            question = (edit, batch.step, metric, group, prompt, text, expected, sequence)
            questions.append(Question(*question))
        chunks = []
        for rows in length_buckets([q.sequence for q in questions], self.batch_size):
            checkpoint()
            with self.editor.disabled():
                chunks.append(self._chunk([questions[i] for i in rows]))
        return chunks

    def _questions(self, edit: Edit) -> list[Asked]:
        questions = [(edit.id, "reliability", "", edit.prompt, edit.target, edit.answers)]
        questions += [
            (edit.id, "generality", r.group, r.prompt, edit.target, edit.answers)
            for r in edit.rephrases
        ]
        questions += [
            (edit.id, "locality", p.group, p.prompt, p.target, (p.target,) if p.target else ())
            for p in edit.locality
        ]
        return questions

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


def expects_base_answer(metric: str, group: str, answers: tuple[str, ...]) -> bool:
    """Whether a question is to be answered as by the unedited host, and not by a given text."""
    return metric == "locality" and (group != TEXT or not answers)


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
    asked = [
        (edit.id, metric, group, prompt, edit.target)
        for edit in edits
        for metric, group, prompt in (
            ("reliability", "", edit.prompt),
            *(("generality", rephrase.group, rephrase.prompt) for rephrase in edit.rephrases),
        )
    ]
    columns = ["edit", "metric", "group", "prompt", "target"]
    frame = pd.DataFrame(asked, columns=columns)
    scores = host.score(frame.pop("prompt"), frame.pop("target"), batch_size)
    return frame.assign(
        perplexity=[metrics.perplexity(score.log_probabilities[:-1]) for score in scores]
    )


def question_values(question: Question, score: Score, said: bool | None) -> dict[str, float]:
    """Both scorers' values of one question; of a passage of text, whose answer nobody asks, one."""
    base = question.base
    assert base is not None
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
