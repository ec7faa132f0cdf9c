"""Planners: the order in which the edits of a stream are learned.

    stream = planning.KMeansOrder(seed=0).plan(stream, host)
    planning.similarity(stream, host)

A plan keeps the edits, the batch sizes and everything else of the stream; only the places of the
edits change. An edit of an already edited prompt stays behind the edit that it supersedes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, ClassVar, Literal, get_args

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist
from sklearn.cluster import AgglomerativeClustering, KMeans

from .edits import Edit, EditError, EditStream, normalise

if TYPE_CHECKING:
    from .host import Host

Features = Literal["embeddings", "hidden"]


class Planner(ABC):
    """Puts the edits of a stream into another order: one method, :meth:`arrange`, to write."""

    name: ClassVar[str]

    def plan(self, stream: EditStream, host: Host | None = None) -> EditStream:
        """The same edits in batches of the same sizes, in this planner's order.

        Raises
        ------
        EditError
            If the stream lacks what the planner needs, or if edits of one prompt cannot be kept in
            different batches.
        """
        edits = stream.edits
        sizes = [len(batch) for batch in stream]
        order = self.arrange(stream, host)
        order = _keep_supersession([normalise(edit.prompt) for edit in edits], order, sizes, edits)
        planned = iter(edits[index] for index in order)
        return EditStream.from_groups(
            [tuple(islice(planned, size)) for size in sizes],
            name=stream.name,
            seed=stream.seed,
            calibration=stream.calibration,
            order=self.name,
        )

    @abstractmethod
    def arrange(self, stream: EditStream, host: Host | None) -> list[int]:
        """Indices into ``stream.edits`` in their new order."""


@dataclass(frozen=True)
class RandomOrder(Planner):
    """Any order, decided by ``seed``."""

    seed: int = 0
    name: ClassVar[str] = "random"

    def arrange(self, stream: EditStream, host: Host | None = None) -> list[int]:
        return np.random.default_rng(self.seed).permutation(len(stream.edits)).tolist()


@dataclass(frozen=True)
class TopicOrder(Planner):
    """One topic after the other, and inside a topic one relation after the other.

    ``seed`` decides which topic and which relation comes first.
    """

    seed: int = 0
    name: ClassVar[str] = "topic"

    def arrange(self, stream: EditStream, host: Host | None = None) -> list[int]:
        edits = stream.edits
        for edit in edits:
            if not edit.topic:
                raise EditError(
                    f"edit {edit.id!r} has no topic, and TopicOrder groups by topic; "
                    "give every edit one or use KMeansOrder, which needs only the prompts"
                )
        rng = np.random.default_rng(self.seed)
        topics = _shuffled_ranks([edit.topic for edit in edits], rng)
        relations = _shuffled_ranks([edit.relation or "" for edit in edits], rng)
        return sorted(range(len(edits)), key=lambda i: (topics[i], relations[i]))


@dataclass(frozen=True)
class _ClusterOrder(Planner):
    """Batches alike inside and different between; see :func:`embeddings` for the settings.

    ``seed`` decides the clusters, where they depend on chance, and which of them comes first.
    """

    seed: int = 0
    embed: Features = "embeddings"
    layer: int | None = None

    def __post_init__(self) -> None:
        _check_features(self.embed, self.layer)

    def arrange(self, stream: EditStream, host: Host | None) -> list[int]:
        if host is None:
            raise EditError(f"{type(self).__name__} needs the host: call plan(stream, host)")
        points = embeddings(stream.edits, host, self.embed, self.layer)  # (N, d)
        sizes = [len(batch) for batch in stream]
        centroids = self.centroids(points, len(sizes))  # (T, d)
        centroids = np.random.default_rng(self.seed).permutation(centroids)
        labels = balanced_assignment(points, centroids, sizes)  # (N,)
        return np.argsort(labels, kind="stable").tolist()

    @abstractmethod
    def centroids(self, points: np.ndarray, count: int) -> np.ndarray:
        """Centres of ``count`` clusters of ``points`` (N, d), as (count, d)."""


@dataclass(frozen=True)
class KMeansOrder(_ClusterOrder):
    """K-means clusters of the prompts, evened out to the stream's batch sizes (LEMoE's planner)."""

    name: ClassVar[str] = "k-means"

    def centroids(self, points: np.ndarray, count: int) -> np.ndarray:
        return KMeans(count, n_init=4, random_state=self.seed).fit(points).cluster_centers_


@dataclass(frozen=True)
class HierarchicalOrder(_ClusterOrder):
    """Ward's hierarchical clusters of the prompts, evened out to the stream's batch sizes."""

    name: ClassVar[str] = "hierarchical"

    def centroids(self, points: np.ndarray, count: int) -> np.ndarray:
        if count == 1:  # AgglomerativeClustering refuses a single edit
            return points.mean(0, keepdims=True)
        labels = AgglomerativeClustering(count, linkage="ward").fit_predict(points)
        return np.stack([points[labels == label].mean(0) for label in range(count)])


def embeddings(
    edits: Sequence[Edit],
    host: Host,
    features: Features = "embeddings",
    layer: int | None = None,
) -> np.ndarray:
    """What the prompts of ``edits`` look like to the host: (N, d), centred, each row of length 1.

    Parameters
    ----------
    features
        ``embeddings``: the mean of the prompt's input embeddings. ``hidden``: the state of the last
        prompt token before the feed-forward network of ``layer``.
    """
    _check_features(features, layer)
    prompts = [edit.prompt for edit in edits]
    states = host.embed(prompts) if features == "embeddings" else host.prompt_states(prompts, layer)
    points = states.detach().cpu().numpy().astype(np.float64)  # (N, d)
    points -= points.mean(0)
    lengths = np.linalg.norm(points, axis=1, keepdims=True)  # (N, 1)
    return points / np.maximum(lengths, np.finfo(float).tiny)


def balanced_assignment(
    points: np.ndarray, centroids: np.ndarray, sizes: Sequence[int]
) -> np.ndarray:
    """Give centroid i exactly ``sizes[i]`` points at the least total squared distance.

    Parameters
    ----------
    points, centroids, sizes
        (N, d), (T, d) and T numbers that sum to N.

    Returns
    -------
    numpy.ndarray
        (N,): the centroid of every point.
    """
    if len(sizes) != len(centroids) or sum(sizes) != len(points):
        raise ValueError(
            f"{len(points)} points cannot fill {len(centroids)} centroids with sizes "
            f"{list(sizes)}: one size per centroid, and a sum of {len(points)}"
        )
    slots = np.repeat(np.arange(len(sizes)), sizes)  # (N,)
    costs = cdist(points, centroids, "sqeuclidean")[:, slots]  # (N, N)
    _, chosen = linear_sum_assignment(costs)
    return slots[chosen]


def within_batch_similarity(
    stream: EditStream,
    host: Host,
    features: Features = "embeddings",
    layer: int | None = None,
) -> float:
    """Mean cosine similarity of two edits in the same batch; nan if no batch has two."""
    return _similarities(stream, host, features, layer)[0]


def between_batch_similarity(
    stream: EditStream,
    host: Host,
    features: Features = "embeddings",
    layer: int | None = None,
) -> float:
    """Mean cosine similarity of two edits in different batches; nan if there is one batch."""
    return _similarities(stream, host, features, layer)[1]


def similarity(
    stream: EditStream,
    host: Host,
    features: Features = "embeddings",
    layer: int | None = None,
) -> dict[str, object]:
    """One row of a table: ``pd.DataFrame([similarity(stream, host) for stream in streams])``."""
    within, between = _similarities(stream, host, features, layer)
    return {
        "stream": stream.name,
        "order": stream.order,
        "seed": stream.seed,
        "edits": len(stream.edits),
        "batches": len(stream),
        "within": within,
        "between": between,
    }


def _similarities(
    stream: EditStream, host: Host, features: Features, layer: int | None
) -> tuple[float, float]:
    points = embeddings(stream.edits, host, features, layer)  # (N, d)
    parts = np.split(points, np.cumsum([len(batch) for batch in stream])[:-1])
    all_sum, all_pairs = _pairs(points)
    same_sum, same_pairs = np.sum([_pairs(part) for part in parts], axis=0)
    within = same_sum / same_pairs if same_pairs else np.nan
    others = all_pairs - same_pairs
    between = (all_sum - same_sum) / others if others else np.nan
    return float(within), float(between)


def _pairs(points: np.ndarray) -> tuple[float, int]:
    """The sum of the dot products of all pairs of different rows, and how many pairs there are."""
    total = points.sum(0)
    count = len(points)
    return (total @ total - (points * points).sum()) / 2, count * (count - 1) // 2


def _check_features(features: str, layer: int | None) -> None:
    if features not in get_args(Features):
        raise ValueError(f"embed must be one of {', '.join(get_args(Features))}, not {features!r}")
    if (features == "hidden") != (layer is not None):
        raise ValueError(
            f"embed='hidden' needs a layer and embed='embeddings' takes none, "
            f"but embed={features!r} came with layer={layer}"
        )


def _shuffled_ranks(values: Sequence[str], rng: np.random.Generator) -> list[int]:
    """A number for each value, equal for equal values, in an order decided by ``rng``."""
    names = sorted(set(values))
    rank = dict(zip(names, rng.permutation(len(names)).tolist(), strict=True))
    return [rank[value] for value in values]


def _keep_supersession(
    prompts: Sequence[str], order: list[int], sizes: Sequence[int], edits: Sequence[Edit]
) -> list[int]:
    """Move edits of repeated prompts apart and back into their old sequence.

    ``order`` holds indices into ``prompts``. Two edits of one prompt in one batch are separated by
    exchanging the later with the nearest edit elsewhere for which that causes no new meeting.
    """
    groups: dict[str, list[int]] = {}
    for index, prompt in enumerate(prompts):
        groups.setdefault(prompt, []).append(index)
    repeated = {prompt: members for prompt, members in groups.items() if len(members) > 1}
    if not repeated:
        return order

    batch_at = np.repeat(np.arange(len(sizes)), sizes).tolist()
    place = {index: position for position, index in enumerate(order)}

    def batches(prompt: str, without: int) -> set[int]:
        return {batch_at[place[member]] for member in groups[prompt] if member != without}

    def exchangeable(index: int, other: int) -> bool:
        here, there = batch_at[place[index]], batch_at[place[other]]
        return there not in batches(prompts[index], index) and here not in batches(
            prompts[other], other
        )

    for prompt, members in repeated.items():
        for index in members:
            here = place[index]
            if batch_at[here] not in batches(prompt, index):
                continue
            nearest = sorted(order, key=lambda other: abs(place[other] - here))
            partner = next((other for other in nearest if exchangeable(index, other)), None)
            if partner is None:
                raise EditError(
                    f"edit {edits[index].id!r}: its prompt {edits[index].prompt!r} is edited "
                    f"{len(members)} times and {len(sizes)} batches leave no place for it; "
                    "use smaller batches or fewer edits of this prompt"
                )
            place[index], place[partner] = place[partner], place[index]
    for members in repeated.values():
        places = sorted(place[member] for member in members)
        place.update(zip(members, places, strict=True))
    return sorted(place, key=place.__getitem__)
