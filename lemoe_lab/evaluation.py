"""Scores of a stream's edits as rows of the metrics table.

    evaluator = Evaluator(host, editor)
    rows = evaluator.measure(batch, step=3)

Every question (an edit's prompt, its rephrases, its locality prompts) is run through the lower
layers once. It is scored again only when its route, or a weight on its path, has changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from . import metrics
from .editors.base import Editor
from .edits import Edit, EditBatch
from .host import Host, LayerStates, Score, TokenSequence, length_buckets
from .routing import BYPASS, Routes

Between = Callable[[], None]
BASE = ((BYPASS, 0.0),)  # the path of an input that no expert touches


@dataclass
class Question:
    """One prompt with what counts as right, and its latest score."""

    edit: str
    batch: int
    metric: str
    group: str
    prompt: str
    target: str
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
        self._chunks: dict[int, list[Chunk]] = {}
        self._batches: dict[int, EditBatch] = {}

    def measure(
        self,
        batch: EditBatch,
        step: int,
        wanted: Iterable[str] = metrics.METRICS,
        between: Between | None = None,
    ) -> list[tuple]:
        """Rows of the metrics table for one batch, ``step`` batches being applied.

        ``between`` is called between two parts of the work; the host is in nobody's hands then.
        """
        wanted = set(wanted)
        between = between or (lambda: None)
        rows = []
        for chunk in self._prepared(batch, between):
            between()
            self._refresh(chunk, step, wanted)
            rows += [
                (step, q.batch, q.edit, q.metric, q.group, scorer, value)
                for q in chunk.questions
                if q.metric in wanted
                for scorer, value in q.values.items()
            ]
        return rows

    def forget(self, step: int) -> None:
        """Drop the prepared questions of a batch."""
        self._chunks.pop(step, None)
        self._batches.pop(step, None)

    # Preparation

    def _prepared(self, batch: EditBatch, between: Between) -> list[Chunk]:
        if self._batches.get(batch.step) != batch:
            self._chunks[batch.step] = self._prepare(batch, between)
            self._batches[batch.step] = batch
        return self._chunks[batch.step]

    def _prepare(self, batch: EditBatch, between: Between) -> list[Chunk]:
        asked = [question for edit in batch for question in self._questions(edit)]
        unknown = [prompt for _, _, _, prompt, target in asked if target is None]
        known: list[str] = []
        for start in range(0, len(unknown), self.batch_size):
            between()
            with self.editor.unedited():
                known += base_answers(self.host, unknown[start : start + self.batch_size])
        answers = iter(known)
        questions = []
        for edit, metric, group, prompt, target in asked:
            text = next(answers) or "?" if target is None else target
            sequence = self.host.encode(prompt, text)
            questions.append(Question(edit, batch.step, metric, group, prompt, text, sequence))
        chunks = []
        for rows in length_buckets([q.sequence for q in questions], self.batch_size):
            between()
            with self.editor.unedited():
                chunks.append(self._chunk([questions[i] for i in rows]))
        return chunks

    def _questions(self, edit: Edit) -> list[tuple[str, str, str, str, str | None]]:
        questions = [(edit.id, "reliability", "", edit.prompt, edit.target)]
        questions += [
            (edit.id, "generality", r.group, r.prompt, edit.target) for r in edit.rephrases
        ]
        questions += [(edit.id, "locality", p.group, p.prompt, p.target) for p in edit.locality]
        return questions

    def _chunk(self, questions: list[Question]) -> Chunk:
        sequences = [q.sequence for q in questions]
        states = self.host.states(sequences, self.editor.layer)
        for question, score in zip(
            questions, self.host.score_hidden(states.final, sequences), strict=True
        ):
            question.base = score
        return Chunk(questions, states, self.editor.features(states))

    # Scoring

    def _refresh(self, chunk: Chunk, step: int, wanted: set[str]) -> None:
        """Bring the values of the wanted questions up to date."""
        routes = self.editor.routes(chunk.features)
        paths = self._paths(routes, step, len(chunk.questions))
        stale = [
            i
            for i, (question, path) in enumerate(zip(chunk.questions, paths, strict=True))
            if question.metric in wanted and not (self.reuse and question.path == path)
        ]
        untouched = [i for i in stale if self.reuse and paths[i] == BASE]
        touched = [i for i in stale if not (self.reuse and paths[i] == BASE)]
        scores = {i: chunk.questions[i].base for i in untouched}
        if touched:
            rows = torch.tensor(touched, device=self.host.device)
            with torch.no_grad(), self.editor.scoring(None if routes is None else routes[rows]):
                hidden = self.host.finish(chunk.states, self.editor.layer, rows)
            sequences = [chunk.questions[i].sequence for i in touched]
            scores |= zip(touched, self.host.score_hidden(hidden, sequences), strict=True)
        said = self._said([chunk.questions[i] for i in stale], [scores[i] for i in stale])
        for i, target_said in zip(stale, said, strict=True):
            question = chunk.questions[i]
            question.path = paths[i]
            question.values = question_values(question, scores[i], target_said)

    def _paths(self, routes: Routes | None, step: int, count: int) -> list[tuple]:
        if routes is None:
            return [("step", step)] * count
        rows = zip(routes.expert.tolist(), routes.gate.tolist(), strict=True)
        paths = [tuple(zip(experts, gates, strict=True)) for experts, gates in rows]
        if self.editor.experts_frozen:
            return paths
        return [path if path == BASE else (*path, step) for path in paths]

    def _said(self, questions: Sequence[Question], scores: Sequence[Score]) -> list[bool]:
        """Whether greedy decoding says the target; decoded only where the argmax leaves it."""
        open_ = [
            i
            for i, (q, s) in enumerate(zip(questions, scores, strict=True))
            if q.group != "text" and not s.reproduced
        ]
        prompts = [questions[i].prompt for i in open_]
        targets = [questions[i].target for i in open_]
        decoded = self.host.says(prompts, targets, batch_size=self.batch_size) if open_ else []
        said = dict(zip(open_, decoded, strict=True))
        return [said.get(i, True) for i in range(len(questions))]


_answers: WeakKeyDictionary[Host, dict[str, dict[str, str]]] = WeakKeyDictionary()


def base_answers(host: Host, prompts: Sequence[str]) -> list[str]:
    """What the host, which nothing must edit now, says to prompts; each is decoded once."""
    known = _answers.setdefault(host, {}).setdefault(host.fingerprint(), {})
    missing = [prompt for prompt in dict.fromkeys(prompts) if prompt not in known]
    known |= zip(missing, host.generate(missing, batch_size=len(missing) or 1), strict=True)
    return [known[prompt] for prompt in prompts]


def question_values(question: Question, score: Score, said: bool) -> dict[str, float]:
    """Both scorers' values of one question."""
    base = question.base
    assert base is not None
    if question.group == "text":
        ratio = metrics.perplexity_ratio(
            metrics.perplexity(base.log_probabilities), metrics.perplexity(score.log_probabilities)
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
