"""Calibration of routers on facts outside the stream.

    fitted = scoped_space(host, facts, layer=4, width=64, seed=0)
    threshold = similarity_threshold(fitted.addresses, fitted.data, false_alarms=3.5e-4)

Nothing here sees an edit, a rephrase of an edit, or a locality prompt: only the
:class:`~lemoe_lab.edits.CalibrationFact` entries that a stream carries along.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ..edits import CalibrationFact
from ..host import Host
from ..host.kept import cached_on
from .anchors import Threshold


@dataclass(frozen=True)
class Calibration:
    """What a router is given before the first batch, and keeps.

    ``centre`` (d,) of features and ``projection`` (k, d) make addresses of them; ``threshold`` is
    that of routers that leave other prompts alone. None: the router needs none.
    """

    centre: Tensor | None = None
    projection: Tensor | None = None
    threshold: Threshold | None = None

    @classmethod
    def of_state(cls, state: Mapping[str, Tensor]) -> Calibration:
        """What a router's ``calibration_state`` holds."""
        threshold = Threshold.of_state(state) if "rivals" in state else None
        return cls(state.get("centre"), state.get("projection"), threshold)


@dataclass(frozen=True)
class CalibrationSet:
    """Features of calibration prompts with what each asks for.

    ``features`` (F, P, d) holds P phrasings of F facts; ``subject`` (F,) and ``relation`` (F,)
    are codes.
    """

    features: Tensor
    subject: Tensor
    relation: Tensor

    def rows(self, chosen: Tensor) -> CalibrationSet:
        return CalibrationSet(self.features[chosen], self.subject[chosen], self.relation[chosen])


def calibration_set(facts: Sequence[CalibrationFact], features: Tensor) -> CalibrationSet:
    """Arrange features (sum of phrasings, d), fact after fact, as (F, P, d).

    Raises
    ------
    ValueError
        If the facts do not all have the same number of phrasings, at least two.
    """
    counts = {len(fact.prompts) for fact in facts}
    if len(counts) != 1 or min(counts) < 2:
        raise ValueError(
            f"calibration facts need the same number of phrasings each, two or more; got {counts}"
        )

    def codes(names: list[str]) -> Tensor:
        known = {name: i for i, name in enumerate(dict.fromkeys(names))}
        return torch.tensor([known[name] for name in names], device=features.device)

    return CalibrationSet(
        features.unflatten(0, (len(facts), counts.pop())),
        codes([fact.subject for fact in facts]),
        codes([fact.relation for fact in facts]),
    )


def centre_and_whiten(data: CalibrationSet, ridge: float = 0.05) -> tuple[Tensor, Tensor]:
    """The mean (d,) and the inverse square root (d, d) of the covariance within facts."""
    flat = data.features.flatten(0, 1)
    centre = flat.mean(0)
    within = (data.features - data.features.mean(1, keepdim=True)).flatten(0, 1)
    covariance = within.T @ within / len(within)
    scale = covariance.diagonal().mean()
    values, vectors = torch.linalg.eigh(
        covariance + ridge * scale * torch.eye(len(covariance), device=flat.device)
    )
    return centre, vectors @ torch.diag(values.rsqrt()) @ vectors.T


def fit_projection(
    data: CalibrationSet,
    width: int,
    seed: int,
    steps: int = 200,
    temperature: float = 0.1,
    learning_rate: float = 1e-2,
) -> tuple[Tensor, Tensor]:
    """Contrastive linear projection: (centre (d,), projection (width, d)).

    Two phrasings of a fact attract each other; all other facts of the draw repel, among them the
    same relation of other subjects and other relations of the same subject (InfoNCE,
    arXiv 1807.03748). It starts from the covariance within facts, whitened.
    """
    generator = torch.Generator(device="cpu").manual_seed(seed)
    centre, whitening = centre_and_whiten(data)
    white = F.normalize((data.features - centre) @ whitening, dim=-1)  # (F, P, d)
    facts, phrasings, _ = white.shape
    seen = white.flatten(0, 1)  # (F * P, d); with fewer than `width`, others complete the basis
    start = torch.linalg.svd(seen, full_matrices=len(seen) < width).Vh[:width]
    weight = torch.nn.Parameter(start.clone())
    optimizer = torch.optim.AdamW([weight], lr=learning_rate, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    targets = torch.arange(facts, device=white.device)
    for _ in range(steps):
        pick = torch.rand(facts, phrasings, generator=generator).argsort(1)[:, :2]
        pick = pick.to(white.device)
        left = F.normalize(white[targets, pick[:, 0]] @ weight.T, dim=-1)  # (F, k)
        right = F.normalize(white[targets, pick[:, 1]] @ weight.T, dim=-1)
        logits = left @ right.T / temperature
        loss = F.cross_entropy(logits, targets) + F.cross_entropy(logits.T, targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return centre, (weight @ whitening).detach()


def rival_similarities(
    addresses: Tensor, data: CalibrationSet, same_subject: bool = False
) -> Tensor:
    """Similarities of every phrasing to the canonical prompts of other facts it could be taken for.

    Rivals share the relation or the subject, or only the ``same_subject``. ``addresses`` (F, P, k)
    are unit vectors; the result is one flat tensor.
    """
    anchors = addresses[:, 0]  # (F, k)
    subject = data.subject[:, None] == data.subject
    relation = data.relation[:, None] == data.relation
    rival = (subject | relation) & ~(subject & relation)
    if same_subject:
        rival &= subject
    similarity = torch.einsum("fpk,ak->pfa", addresses, anchors)
    return similarity[:, rival].flatten()


def similarity_threshold(
    addresses: Tensor, data: CalibrationSet, false_alarms: float, same_subject: bool = False
) -> Threshold:
    """The similarity that a share ``false_alarms`` of rival pairs exceeds, among F anchors.

    Raises
    ------
    ValueError
        If no fact has a rival.
    """
    similarities = rival_similarities(addresses, data, same_subject).float()
    if not len(similarities):
        raise ValueError(
            "no two calibration facts share a subject or a relation, so nothing shows how alike "
            "the prompts of different facts look; give the stream some that do"
        )
    rank = false_alarms * (len(similarities) - 1)
    highest = similarities.topk(min(math.floor(rank) + 2, len(similarities))).values
    return Threshold(highest, rank, anchors=len(addresses))


def held_out_addresses(data: CalibrationSet, width: int, seed: int, folds: int = 2) -> Tensor:
    """Addresses (F, P, k) of facts, each from a projection that was fitted without its subject.

    Raises
    ------
    ValueError
        If there are fewer subjects than folds.
    """
    generator = torch.Generator().manual_seed(seed)
    known, subject = data.subject.unique(return_inverse=True)
    subjects = len(known)
    if subjects < folds:
        raise ValueError(
            f"scoped routing calibrates on facts about {folds} subjects or more, and these "
            f"{len(data.subject)} are about {subjects}; give the stream facts about others too"
        )
    fold_of = torch.zeros(subjects, dtype=torch.long)
    while len(fold_of.unique()) < folds:  # few subjects can all fall into one
        fold_of = torch.randint(folds, (subjects,), generator=generator)
    fold = fold_of.to(subject.device)[subject]
    result = torch.empty(*data.features.shape[:2], width, device=data.features.device)
    for index in range(folds):
        centre, projection = fit_projection(data.rows(fold != index), width, seed)
        inside = fold == index
        result[inside] = F.normalize((data.features[inside] - centre) @ projection.T, dim=-1)
    return result


@dataclass(frozen=True)
class Space:
    """Where a router compares prompts, and how calibration facts look there.

    ``centre`` (d,) and ``projection`` (width, d; None: none) make addresses of features;
    ``addresses`` (F, P, width) are those of the facts in ``data``.
    """

    centre: Tensor
    projection: Tensor | None
    data: CalibrationSet
    addresses: Tensor


def embedding_space(host: Host, facts: Sequence[CalibrationFact]) -> Space:
    """The space of centred mean embeddings, where KV anchor routing stores addresses."""
    data = calibration_set(facts, host.embed([prompt for fact in facts for prompt in fact.prompts]))
    centre = data.features.flatten(0, 1).mean(0)
    return Space(centre, None, data, F.normalize(data.features - centre, dim=-1))


def scoped_space(
    host: Host, facts: Sequence[CalibrationFact], layer: int, width: int, seed: int
) -> Space:
    """The space of FFN inputs at ``layer``; fitted once for equal arguments and host weights.

    The addresses of its facts are each from a fit without the fact's subject.
    """

    def fitted() -> Space:
        prompts = [prompt for fact in facts for prompt in fact.prompts]
        data = calibration_set(facts, host.prompt_states(prompts, layer))
        addresses = held_out_addresses(data, width, seed)
        return Space(*fit_projection(data, width, seed), data, addresses)

    key = ("scoped space", host.fingerprint(), tuple(facts), layer, width, seed)
    return cached_on(host, key, fitted)
