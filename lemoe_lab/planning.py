"""Planners: the order in which the edits of a stream are learned.

    stream = planning.KMeansOrder(seed=0).plan(stream, host)
    planning.similarity(stream, host)

A plan keeps the edits, the batch sizes and everything else of the stream; only the places of the
edits change. An edit of an already edited fact stays behind the edit that it supersedes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import scipy

from .edits import Edit, EditError, EditStream, FactIndex, normalise
from .similarity import (
    Features,
    between_batch_similarity,
    check_features,
    embeddings,
    similarity,
    within_batch_similarity,
)

if TYPE_CHECKING:
    from .host import Host

__all__ = [
    "HierarchicalOrder",
    "KMeansOrder",
    "MixedOrder",
    "Planner",
    "RandomOrder",
    "TopicOrder",
    "balanced_assignment",
    "between_batch_similarity",
    "embeddings",
    "similarity",
    "within_batch_similarity",
]


class Planner(ABC):
    """Puts the edits of a stream into another order: one method, :meth:`arrange`, to write."""

    name: ClassVar[str]

    def plan(self, stream: EditStream, host: Host | None = None) -> EditStream:
        """The same edits in batches of the same sizes, in this planner's order.

        Raises
        ------
        EditError
            If the stream lacks what the planner needs, or if edits of one fact cannot be kept in
            different batches.
        """
        edits = stream.edits
        sizes = [len(batch) for batch in stream]
        order = self.arrange(stream, host)
        order = _keep_supersession(_facts(edits), order, sizes, edits)
        planned = iter(edits[index] for index in order)
        return stream.with_groups([tuple(islice(planned, size)) for size in sizes], self.name)

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
        check_features(self.embed, self.layer)

    def arrange(self, stream: EditStream, host: Host | None) -> list[int]:
        return self.clustered(stream, host, [len(batch) for batch in stream])

    def clustered(self, stream: EditStream, host: Host | None, sizes: Sequence[int]) -> list[int]:
        """Indices into ``stream.edits``, one cluster after the other; ``sizes`` are theirs."""
        if host is None:
            raise EditError(f"{type(self).__name__} needs the host: call plan(stream, host)")
        points = embeddings(stream.edits, host, self.embed, self.layer)  # (N, d)
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
        from sklearn.cluster import KMeans  # takes a second, which only who plans so pays

        return KMeans(count, n_init=4, random_state=self.seed).fit(points).cluster_centers_


@dataclass(frozen=True)
class HierarchicalOrder(_ClusterOrder):
    """Ward's hierarchical clusters of the prompts, evened out to the stream's batch sizes."""

    name: ClassVar[str] = "hierarchical"

    def centroids(self, points: np.ndarray, count: int) -> np.ndarray:
        from sklearn.cluster import AgglomerativeClustering  # takes a second, see KMeansOrder

        if count == 1:  # AgglomerativeClustering refuses a single edit
            return points.mean(0, keepdims=True)
        labels = AgglomerativeClustering(count, linkage="ward").fit_predict(points)
        return np.stack([points[labels == label].mean(0) for label in range(count)])


@dataclass(frozen=True)
class MixedOrder(KMeansOrder):
    """Batches as mixed as possible: edits that are alike are dealt out over all batches.

    The opposite of what LEMoE asks for: as many K-means clusters as a batch has edits, and
    every batch gets one edit of each.
    """

    name: ClassVar[str] = "mixed"

    def arrange(self, stream: EditStream, host: Host | None) -> list[int]:
        sizes = [len(batch) for batch in stream]
        hands = [sum(size > turn for size in sizes) for turn in range(max(sizes))]
        return _dealt(self.clustered(stream, host, hands), sizes)


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
    costs = scipy.spatial.distance.cdist(points, centroids, "sqeuclidean")[:, slots]  # (N, N)
    _, chosen = scipy.optimize.linear_sum_assignment(costs)
    return slots[chosen]


def _dealt(line: Sequence[int], sizes: Sequence[int]) -> list[int]:
    """Deal a line out like cards, each to the next batch with room; the batches in a row."""
    rounds = sorted((turn, batch) for batch, size in enumerate(sizes) for turn in range(size))
    batches = [batch for _, batch in rounds]
    return [line[place] for place in np.argsort(batches, kind="stable")]


def _shuffled_ranks(values: Sequence[str], rng: np.random.Generator) -> list[int]:
    """A number for each value, equal for equal values, in an order decided by ``rng``."""
    names = sorted(set(values))
    rank = dict(zip(names, rng.permutation(len(names)).tolist(), strict=True))
    return [rank[value] for value in values]


def _facts(edits: Sequence[Edit]) -> list[int]:
    """A number for the fact of each edit; edits that share one through a third share it too."""
    place = {edit.id: index for index, edit in enumerate(edits)}
    index = FactIndex(edits, normalise)
    pairs = [(place[edit.id], place[other.id]) for edit in edits for other in index.same(edit)]
    rows, columns = np.array(pairs).T
    shape = len(edits), len(edits)
    links = scipy.sparse.coo_array((np.ones(len(pairs)), (rows, columns)), shape=shape)
    _, facts = scipy.sparse.csgraph.connected_components(links, directed=False)
    return facts.tolist()


def _keep_supersession(
    facts: Sequence[int], order: list[int], sizes: Sequence[int], edits: Sequence[Edit]
) -> list[int]:
    """Move edits of repeated facts apart and back into their old sequence.

    ``order`` holds indices into ``facts``. Two edits of one fact in one batch are separated by
    exchanging the later with the nearest edit elsewhere for which that causes no new meeting.
    """
    groups: dict[int, list[int]] = {}
    for index, fact in enumerate(facts):
        groups.setdefault(fact, []).append(index)
    repeated = {fact: members for fact, members in groups.items() if len(members) > 1}
    if not repeated or len(sizes) == 1:
        return order

    batch_at = np.repeat(np.arange(len(sizes)), sizes).tolist()
    place = {index: position for position, index in enumerate(order)}

    def batches(fact: int, without: int) -> set[int]:
        return {batch_at[place[member]] for member in groups[fact] if member != without}

    def exchangeable(index: int, other: int) -> bool:
        here, there = batch_at[place[index]], batch_at[place[other]]
        return there not in batches(facts[index], index) and here not in batches(
            facts[other], other
        )

    for fact, members in repeated.items():
        for index in members:
            here = place[index]
            if batch_at[here] not in batches(fact, index):
                continue
            nearest = sorted(order, key=lambda other: abs(place[other] - here))
            partner = next((other for other in nearest if exchangeable(index, other)), None)
            if partner is None:
                raise EditError(
                    f"edit {edits[index].id!r}: the fact of its prompt {edits[index].prompt!r} is "
                    f"edited {len(members)} times and {len(sizes)} batches leave no place for it; "
                    "use smaller batches or fewer edits of this fact"
                )
            place[index], place[partner] = place[partner], place[index]
    for members in repeated.values():
        places = sorted(place[member] for member in members)
        place.update(zip(members, places, strict=True))
    return sorted(place, key=place.__getitem__)
