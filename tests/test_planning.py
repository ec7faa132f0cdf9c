"""Planners: same edits, other order; what each order is good for; what they refuse."""

from collections import Counter
from itertools import pairwise, permutations

import numpy as np
import pytest
import torch

from lemoe_lab import datasets, planning
from lemoe_lab.edits import Edit, EditError, EditStream, Rephrase

PLANNERS = [
    planning.RandomOrder,
    planning.TopicOrder,
    planning.KMeansOrder,
    planning.HierarchicalOrder,
    planning.MixedOrder,
]
CLUSTERING = [planning.KMeansOrder, planning.HierarchicalOrder]


class BagOfBytes:
    """A host that sees which letters a prompt has, and nothing else."""

    def __init__(self) -> None:
        self.table = torch.randn(256, 24, generator=torch.Generator().manual_seed(0))

    def embed(self, prompts):
        return torch.stack([self.table[list(p.encode())].mean(0) for p in prompts])  # (N, d)

    def prompt_states(self, prompts, layer):
        return self.embed([p[-9:] for p in prompts]) * layer  # (N, d)


class Points:
    """A host whose embedding of the prompt ``"1 0"`` is the point (1, 0)."""

    def embed(self, prompts):
        return torch.tensor([[float(x) for x in prompt.split()] for prompt in prompts])


@pytest.fixture(scope="module")
def host():
    return BagOfBytes()


@pytest.fixture(scope="module")
def stream():
    return datasets.almanac(edits=170, batch_size=30, seed=0)


def make_edit(
    name: str, prompt: str, target: str = "yes", topic: str | None = "topic", **more: object
) -> Edit:
    return Edit(id=name, prompt=prompt, target=target, topic=topic, **more)


def ids(stream):
    return [[edit.id for edit in batch] for batch in stream]


@pytest.mark.parametrize("planner", PLANNERS)
class TestEveryPlanner:
    def test_keeps_the_edits_the_batch_sizes_and_the_calibration(self, planner, stream, host):
        planned = planner(seed=3).plan(stream, host)
        assert Counter(edit.id for edit in planned.edits) == Counter(e.id for e in stream.edits)
        assert {e.id: e for e in planned.edits} == {e.id: e for e in stream.edits}
        assert [len(batch) for batch in planned] == [30, 30, 30, 30, 30, 20]
        assert planned.calibration == stream.calibration
        assert (planned.name, planned.seed) == (stream.name, stream.seed)

    def test_signs_its_plan(self, planner, stream, host):
        assert planner(seed=0).plan(stream, host).order == planner.name

    def test_gives_the_same_plan_for_the_same_seed(self, planner, stream, host):
        assert planner(seed=5).plan(stream, host) == planner(seed=5).plan(stream, host)

    def test_gives_another_plan_for_another_seed(self, planner, stream, host):
        assert ids(planner(seed=5).plan(stream, host)) != ids(planner(seed=6).plan(stream, host))

    def test_accepts_a_stream_of_one_edit(self, planner, host):
        stream = EditStream.from_edits([make_edit("a", "only")], 1)
        assert planner(seed=0).plan(stream, host).edits == stream.edits

    @pytest.mark.parametrize("seed", range(8))
    def test_keeps_an_edit_behind_the_one_it_supersedes(self, planner, host, seed):
        edits = [make_edit(f"plain-{i}", f"Question number {i}") for i in range(12)]
        edits[1] = make_edit("old", "Who leads?", "Ann")
        edits[5] = make_edit("newer", "Who leads?", "Bob")
        edits[11] = make_edit("newest", "who  leads?", "Cleo")
        stream = EditStream.from_edits(edits, 4)
        planned = planner(seed=seed).plan(stream, host)
        assert Counter(e.id for e in planned.edits) == Counter(e.id for e in edits)
        assert planned.superseded == {"old": 2, "newer": 3}

    @pytest.mark.parametrize("seed", range(8))
    def test_keeps_an_edit_behind_the_one_it_supersedes_in_other_words(self, planner, host, seed):
        edits = [make_edit(f"plain-{i}", f"Question number {i}") for i in range(12)]
        edits[1] = make_edit("old", "Who leads?", "Ann")
        reworded = Rephrase(prompt="who leads?")
        edits[5] = make_edit("newer", "The leader is", "Bob", rephrases=[reworded])
        edits[11] = make_edit("newest", "the  leader is", "Cleo")
        planned = planner(seed=seed).plan(EditStream.from_edits(edits, 4), host)
        assert planned.superseded == {"old": 2, "newer": 3}

    def test_leaves_two_wordings_of_one_fact_in_the_only_batch(self, planner, host):
        twins = [
            make_edit("a", "Who leads?", "Ann", subject="Foo", relation="leader"),
            make_edit("b", "The leader is", "Ann", subject="Foo", relation="leader"),
        ]
        planned = planner(seed=0).plan(EditStream.from_edits(twins, 2), host)
        assert sorted(edit.id for edit in planned.edits) == ["a", "b"]

    @pytest.mark.parametrize("seed", range(4))
    def test_keeps_every_repeated_prompt_in_sequence_when_all_are_repeated(
        self, planner, host, seed
    ):
        rounds = [
            [make_edit(f"{name}-{turn}", f"Who is {name}?", f"x{turn}") for name in "abcd"]
            for turn in range(3)
        ]
        planned = planner(seed=seed).plan(EditStream.from_groups(rounds), host)
        assert [sorted(batch) for batch in ids(planned)] == [
            sorted(e.id for e in r) for r in rounds
        ]


def test_topic_order_groups_by_topic_then_relation(stream):
    planned = planning.TopicOrder(seed=0).plan(stream)
    groups = [(edit.topic, edit.relation) for edit in planned.edits]
    for keys in (groups, [topic for topic, _ in groups]):
        borders = sum(a != b for a, b in pairwise(keys))
        assert borders == len(set(keys)) - 1


def test_topic_order_names_the_edit_without_a_topic():
    edits = [make_edit("with", "a"), make_edit("without", "b", topic=None)]
    with pytest.raises(EditError, match="without.*no topic.*KMeansOrder"):
        planning.TopicOrder().plan(EditStream.from_edits(edits, 1))


@pytest.mark.parametrize("planner", CLUSTERING)
def test_clustering_needs_the_host(planner, stream):
    with pytest.raises(EditError, match="needs the host"):
        planner().plan(stream)


@pytest.mark.parametrize("planner", CLUSTERING)
def test_clustering_finds_clusters_that_are_plain_to_see(planner):
    corners = [(0, 9), (9, 0), (-9, -9)]
    prompts = [f"{x + 0.1 * i} {y - 0.1 * i}" for i in range(5) for x, y in corners]
    stream = EditStream.from_edits([make_edit(p, p) for p in prompts], 5)
    planned = planner(seed=0).plan(stream, Points())
    assert sorted(map(sorted, ids(planned))) == sorted(sorted(prompts[i::3]) for i in range(3))


@pytest.mark.parametrize("planner", CLUSTERING)
def test_the_sequence_of_the_clusters_depends_on_the_seed(planner):
    corners = [(0, 9), (9, 0), (-9, -9)]
    prompts = [f"{x + 0.1 * i} {y - 0.1 * i}" for i in range(5) for x, y in corners]
    stream = EditStream.from_edits([make_edit(p, p) for p in prompts], 5)
    firsts = {planner(seed=s).plan(stream, Points()).edits[0].id for s in range(12)}
    assert len(firsts) == 3


@pytest.mark.parametrize("planner", CLUSTERING)
@pytest.mark.parametrize("settings", [{}, {"embed": "hidden", "layer": 2}])
def test_clusters_are_alike_inside_and_different_between(planner, settings, stream, host):
    features = (settings.get("embed", "embeddings"), settings.get("layer"))
    random = planning.RandomOrder(seed=0).plan(stream, host)
    planned = planner(seed=0, **settings).plan(stream, host)
    within = planning.within_batch_similarity
    between = planning.between_batch_similarity
    assert within(planned, host, *features) > within(random, host, *features) + 0.1
    assert between(planned, host, *features) < between(random, host, *features)


def test_mixed_batches_get_one_edit_of_every_cluster():
    corners = [(0, 9), (9, 0), (-9, -9)]
    prompts = [f"{x + 0.1 * i} {y - 0.1 * i}" for x, y in corners for i in range(5)]
    stream = EditStream.from_edits([make_edit(p, p) for p in prompts], 3)
    cluster = {prompt: place // 5 for place, prompt in enumerate(prompts)}
    for batch in ids(planning.MixedOrder(seed=0).plan(stream, Points())):
        assert {cluster[prompt] for prompt in batch} == {0, 1, 2}


def test_mixed_batches_are_less_alike_inside_than_random_ones(stream, host):
    within = planning.within_batch_similarity
    mixed = within(planning.MixedOrder(seed=0).plan(stream, host), host)
    random = [within(planning.RandomOrder(seed).plan(stream, host), host) for seed in range(8)]
    assert mixed < min(random)


def test_prompts_edited_more_often_than_there_are_batches_are_refused_by_name(monkeypatch, host):
    edits = [make_edit(f"e{i}", f"Question {i}") for i in range(4)]
    stream = EditStream.from_edits(edits, 2)
    monkeypatch.setattr(planning, "normalise", lambda prompt: "the same for all")
    with pytest.raises(EditError, match="edit 'e.'.*edited 4 times and 2 batches"):
        planning.RandomOrder().plan(stream)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"embed": "letters"}, "embeddings, hidden, not 'letters'"),
        ({"embed": "hidden"}, "needs a layer"),
        ({"layer": 3}, "takes none"),
    ],
)
@pytest.mark.parametrize("planner", CLUSTERING)
def test_impossible_settings_fail_at_construction(planner, settings, message):
    with pytest.raises(ValueError, match=message):
        planner(**settings)


def test_embeddings_are_centred_before_they_get_length_one(host, stream):
    raw = host.embed([edit.prompt for edit in stream.edits]).numpy().astype(float)
    centred = raw - raw.mean(0)
    expected = centred / np.linalg.norm(centred, axis=1, keepdims=True)
    np.testing.assert_allclose(planning.embeddings(stream.edits, host), expected, atol=1e-12)


def test_embeddings_of_equal_prompts_are_zero_and_not_nan(host):
    points = planning.embeddings([make_edit("a", "same"), make_edit("b", "same")], host)
    assert (points == 0).all()


@pytest.mark.parametrize("seed", range(10))
def test_balanced_assignment_is_as_cheap_as_the_cheapest_of_all_assignments(seed):
    rng = np.random.default_rng(seed)
    sizes = [(3, 3), (2, 2, 2), (3, 2, 1), (1, 4, 1), (2, 2, 3)][seed % 5]
    points = rng.normal(size=(sum(sizes), 3))
    centroids = rng.normal(size=(len(sizes), 3))

    def cost(labels) -> float:
        return ((points - centroids[list(labels)]) ** 2).sum()

    labels = planning.balanced_assignment(points, centroids, sizes)
    slots = np.repeat(np.arange(len(sizes)), sizes).tolist()
    assert np.bincount(labels).tolist() == list(sizes)
    assert cost(labels) == pytest.approx(min(map(cost, set(permutations(slots)))))


def test_balanced_assignment_refuses_sizes_that_do_not_fit():
    with pytest.raises(ValueError, match=r"5 points.*2 centroids.*\[3, 3\].*sum of 5"):
        planning.balanced_assignment(np.zeros((5, 2)), np.zeros((2, 2)), [3, 3])


def test_similarities_are_means_over_pairs_in_the_same_and_in_different_batches(host, stream):
    points = planning.embeddings(stream.edits, host)
    batch_of = [batch.step for batch in stream for _ in batch]
    pairs = {True: [], False: []}
    for i in range(len(points)):
        for j in range(i):
            pairs[batch_of[i] == batch_of[j]].append(points[i] @ points[j])
    row = planning.similarity(stream, host)
    assert row["within"] == pytest.approx(np.mean(pairs[True]))
    assert row["between"] == pytest.approx(np.mean(pairs[False]))
    assert (row["order"], row["edits"], row["batches"]) == ("random", 170, 6)


def test_similarity_by_hand():
    edits = [make_edit(p, p) for p in ("1 0", "2 0", "-1 0", "-2 0")]  # mean (0, 0)
    row = planning.similarity(EditStream.from_edits(edits, 2), Points())
    assert (row["within"], row["between"]) == (1, -1)


def test_similarity_without_pairs_is_nan(host):
    edits = [make_edit(name, name) for name in "abc"]
    assert np.isnan(planning.within_batch_similarity(EditStream.from_edits(edits, 1), host))
    assert np.isnan(planning.between_batch_similarity(EditStream.from_edits(edits, 3), host))
