"""ZsRE, CounterFact and WikiBio hallucination end to end, on hosts trained on their own text.

The hosts are small and read little; what is real are the tokens, the lengths and the questions.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import pandas as pd
import pytest
import torch

import lemoe_lab as ll
from lemoe_lab.embedded.small_host import SMALL, known_texts, train_small_host
from lemoe_lab.evaluation import target_perplexity

FILES = {
    "zsre": "zsre_mend_200.json",
    "counterfact": "counterfact_edit_200.json",
    "hallucination": "hallucination_edit_60.json",
}
TRAINING_STEPS = 80
BATCH_SIZE = 20
# Twelve held-back passages calibrate the router: six to fit it on, six to judge the fit.
SETTINGS = {"steps": 60, "value_width": 8, "seed": 2}


@dataclass
class Run:
    """A finished run on one data set."""

    name: str
    host: ll.Host
    stream: ll.EditStream
    metrics: pd.DataFrame
    perplexity: pd.DataFrame  # of the targets: unedited, edited

    def final(self, metric: str, scorer: str = "teacher_forced") -> float:
        last = self.metrics[self.metrics["step"] == len(self.stream)]
        return last.query("metric == @metric and scorer == @scorer")["value"].mean()


@pytest.fixture(scope="module", params=FILES)
def run(request, shared_data) -> Run:
    """Sixty edits (of the passages all there are, 48) in batches of twenty."""
    load = getattr(ll.datasets, request.param)
    stream = load(shared_data / FILES[request.param], batch_size=BATCH_SIZE)
    stream = stream.with_groups([batch.edits for batch in stream.batches[:3]])
    host = train_small_host(known_texts(stream), steps=TRAINING_STEPS, seed=0, progress=False)
    before = target_perplexity(host, stream.edits)
    with ll.EditSession(host, ll.editors.LEMoE(**SETTINGS), stream, progress=False) as session:
        metrics = session.run()
        after = target_perplexity(host, stream.edits)
    both = before.assign(edited=after["perplexity"]).rename(columns={"perplexity": "unedited"})
    return Run(request.param, host, stream, metrics, both)


pytestmark = pytest.mark.slow  # a minute, most of it for the passages


def test_every_edit_is_still_known_at_the_end(run):
    assert run.final("reliability") >= 0.95


def test_other_questions_are_answered_as_before(run):
    assert run.final("locality") >= 0.8


def test_all_edits_are_measured_in_full(run):
    asked = sum(1 + len(edit.rephrases) + len(edit.locality) for edit in run.stream.edits)
    last = run.metrics[run.metrics["step"] == len(run.stream)]
    assert (last["scorer"] == "teacher_forced").sum() == asked
    assert last["value"].between(0, 1).all()
    longest = max(len(run.host.encode(edit.prompt, edit.target)) for edit in run.stream.edits)
    assert (longest > 200) == (run.name == "hallucination")


def test_targets_lose_their_surprise(run):
    targets = run.perplexity.query("metric == 'reliability'")
    assert len(targets) == len(run.stream.edits)
    assert targets["unedited"].mean() > 100
    assert 1 <= targets["edited"].mean() < 3


def test_the_host_is_given_back(run):
    again = target_perplexity(run.host, run.stream.edits[:5])
    first = run.perplexity[run.perplexity["edit"].isin(again["edit"])]
    assert again["perplexity"].to_numpy() == pytest.approx(first["unedited"].to_numpy(), rel=1e-4)


def test_an_edit_beyond_the_context_is_refused_by_its_name(shared_data):
    stream = ll.datasets.hallucination(shared_data / FILES["hallucination"])
    short = replace(SMALL, context=64)
    host = train_small_host(known_texts(stream), steps=1, config=short, progress=False)
    with pytest.raises(ll.EditError, match=r"^edit 'hallucination/\d+'.* tokens; .* at most 64"):
        ll.EditSession(host, ll.editors.LEMoE(), stream)
    host.require_free()


TEXTS = ["The river Wil runs through Wilport.", "Gemland's capital is Wilport.", "Ann Lee sings."]


def test_the_same_texts_steps_and_seed_give_the_same_small_host():
    state = torch.random.get_rng_state()
    first, again, other = (
        train_small_host(TEXTS, steps=3, seed=seed, progress=False) for seed in (0, 0, 1)
    )
    assert first.fingerprint() == again.fingerprint() != other.fingerprint()
    assert torch.equal(torch.random.get_rng_state(), state)


def test_a_small_host_learns_what_it_reads():
    def surprise(steps: int) -> float:
        host = train_small_host(TEXTS, steps=steps, progress=False)
        return -host.score(["Gemland's capital"], ["is Wilport."])[0].log_probabilities.mean()

    assert surprise(40) < surprise(1) / 10


@pytest.mark.parametrize(("texts", "steps"), [([], 3), ([" "], 3), (TEXTS, 0)])
def test_a_small_host_needs_texts_and_steps(texts, steps):
    with pytest.raises(ValueError, match="at least"):
        train_small_host(texts, steps=steps)


def test_known_texts_hold_old_answers_and_no_new_target():
    edit = ll.Edit(id="a", prompt="Gemland's capital is", target="Newport", old_answer="Wilport")
    assert known_texts(ll.EditStream.from_edits([edit], 1)) == ["Gemland's capital is Wilport"]


def test_a_dozen_facts_calibrate_the_default_router(shared_data):
    stream = ll.datasets.hallucination(shared_data / FILES["hallucination"])
    host = train_small_host(known_texts(stream), steps=1, progress=False)
    with ll.EditSession(host, ll.editors.LEMoE(), stream, progress=False) as session:
        assert session.editor.adaptor.router.memory.vectors.shape[1] == 64
