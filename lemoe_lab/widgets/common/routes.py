"""How a prompt is routed, and what would have to change for it to go elsewhere.

    route = prompt_routes(session, features)[0]   # as the editor stands now
    route.expert, route.slack, route.runner_up
    explain(route)                                # the same as sentences

Experts are numbered from 0, as in all plots; -1 is the plain network.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ...adaptor.anchors import AnchorMemory
from ...adaptor.routing import BYPASS, KVAnchorRouter, Router, ScopedRouter
from ...editors import Editor
from ...editors.moe_adaptor import SoftmaxRouter
from ...edits import Edit
from ...host.names import Features as Asking
from ...host.names import together
from ...session import EditSession
from .elements import escape, number, table_html

NEAREST = 5
NEVER = -2.0  # below any cosine similarity: of anchors that nothing can be nearest to
LEAST_WEIGHT = 0.005
Scores = tuple[tuple[int, float], ...]  # by expert, the best first


@dataclass(frozen=True)
class NearAnchor:
    """An edit whose anchor lies near the prompt."""

    edit: Edit
    batch: int
    expert: int
    similarity: float


class RunnerUp(NamedTuple):
    """The expert that would be chosen next, and by how much it is behind."""

    expert: int
    margin: float


@dataclass(frozen=True)
class PromptRoute:
    """Where one prompt goes at one step."""

    experts: tuple[int, ...]  # the first choice first
    gates: tuple[float, ...]  # their weights
    nearest: tuple[NearAnchor, ...] = ()  # of a router with anchors, the nearest first
    threshold: float | None = None  # similarity below which the plain network answers; None: never
    scores: Scores = ()  # what decides between the experts
    unit: str = ""  # what the scores are

    @property
    def expert(self) -> int:
        return self.experts[0]

    @property
    def bypassed(self) -> bool:
        """Whether the plain network answers."""
        return self.expert == BYPASS

    @property
    def similarity(self) -> float | None:
        """To the nearest anchor."""
        return self.nearest[0].similarity if self.nearest else None

    @property
    def slack(self) -> float | None:
        """Similarity to the nearest anchor above the threshold; below zero it lacks so much."""
        return (
            None if None in (self.threshold, self.similarity) else self.similarity - self.threshold
        )

    @property
    def candidates(self) -> tuple[int, ...]:
        """The experts that answer, or that would if the prompt were not bypassed."""
        if not self.bypassed:
            return self.experts
        return tuple(expert for expert, _ in self.scores[:1])

    @property
    def runner_up(self) -> RunnerUp | None:
        """The best expert that is no candidate, and how far it is behind the weakest candidate."""
        score = dict(self.scores)
        own = [score[expert] for expert in self.candidates if expert in score]
        others = [expert for expert, _ in self.scores if expert not in self.candidates]
        if not own or not others:
            return None
        return RunnerUp(others[0], min(own) - score[others[0]])

    @property
    def weights(self) -> dict[int, float]:
        """What weight each expert has or, where only the best counts, would have."""
        if not self.scores or self.unit == "similarity":
            return dict(zip(self.experts, self.gates, strict=True))
        scores = torch.tensor([score for _, score in self.scores])
        return dict(zip(dict(self.scores), scores.softmax(0).tolist(), strict=True))


def expert_name(expert: int | None) -> str:
    """What tables call an expert; a dash for none."""
    return "-" if expert is None else "bypass" if expert == BYPASS else str(expert)


def _router(editor: Editor) -> Router | None:
    """The router of an editor with an adaptor, else None."""
    return getattr(getattr(editor, "adaptor", None), "router", None)


def last_expert(editor: Editor) -> int:
    """The highest number of an expert now."""
    adaptor = getattr(editor, "adaptor", None)
    return max(0, (editor.steps if adaptor is None else len(adaptor.experts)) - 1)


def refusal(editor: Editor) -> str:
    """What to tell someone who asks for the routes of an editor that has none."""
    return (
        f"{editor.name} does not route: it has no experts, and what it learns acts on every "
        "prompt alike. Inspect a session of LEMoE or of the MoE adaptor."
    )


class Features:
    """What routing looks at, (N, d): frozen with the host, so each prompt is computed once."""

    def __init__(self, editor: Editor) -> None:
        self._editor = editor
        self._known: dict[str, Asking] = {}

    def __call__(self, prompts: Sequence[str]) -> Asking:
        if not prompts:
            return self(["?"])[:0]  # only the width counts
        new = list(dict.fromkeys(prompt for prompt in prompts if prompt not in self._known))
        if new:
            found = self._editor.prompt_features(new)
            self._known |= {prompt: found[i : i + 1] for i, prompt in enumerate(new)}
        return together([self._known[prompt] for prompt in prompts])


@torch.no_grad()
def prompt_routes(session: EditSession, features: Tensor) -> list[PromptRoute] | None:
    """The routes of prompts with these features (N, d) now; None if the editor does not route."""
    editor = session.editor
    routes = editor.routes(features)
    if routes is None:
        return None
    router, last = _router(editor), last_expert(editor)
    nearest, table, unit = [()] * len(features), None, ""
    memory: AnchorMemory | None = getattr(router, "memory", None)
    if memory is not None and len(memory.vectors):
        similarity = router.address(features) @ memory.vectors.T  # (N, A)
        similarity = similarity.masked_fill(~memory.active, NEVER)
        owner = memory.expert.clamp(max=last)  # (A,)
        nearest = _nearest(session, similarity, owner.tolist(), int(memory.active.sum()))
        if isinstance(router, ScopedRouter):
            table = similarity.new_full((len(features), last + 1), NEVER)  # (N, T)
            table = table.scatter_reduce(1, owner.expand_as(similarity), similarity, "amax")
            unit = "similarity"
    if isinstance(router, KVAnchorRouter) and len(router.keys):
        table, unit = router.logits(features), "logit"
    elif isinstance(router, SoftmaxRouter) and router.spread.any():
        table, unit = router.probabilities(features).log(), "log-probability"
    return [
        PromptRoute(
            tuple(routes.expert[row].clamp(max=last).tolist()),
            tuple(routes.gate[row].tolist()),
            nearest[row],
            None if router is None else router.threshold,
            ()
            if table is None
            else _ranked(table[row], NEVER if unit == "similarity" else -np.inf),
            unit,
        )
        for row in range(len(features))
    ]


def _nearest(
    session: EditSession, similarity: Tensor, owner: list[int], active: int
) -> list[tuple[NearAnchor, ...]]:
    anchored = [(edit, batch.step) for batch in session.stream for edit in batch]
    best = similarity.topk(min(NEAREST, active), dim=1)
    return [
        tuple(NearAnchor(*anchored[i], owner[i], v) for i, v in zip(indices, values, strict=True))
        for indices, values in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    ]


def _ranked(scores: Tensor, least: float) -> Scores:
    above = [(expert, score) for expert, score in enumerate(scores.tolist()) if score > least]
    return tuple(sorted(above, key=lambda pair: -pair[1]))


@torch.no_grad()
def positions(editor: Editor, features: Tensor) -> dict[str, np.ndarray]:
    """Where a router sees prompts with these features (N, d), by the name of the space."""
    router = _router(editor)
    if isinstance(router, ScopedRouter):
        found = {"addresses": router.address(features)}
    elif isinstance(router, KVAnchorRouter):
        found = {"routing values": router.value(features), "addresses": router.address(features)}
    elif isinstance(router, SoftmaxRouter):
        known = router.spread.any()
        centred = (features - router.centre) / router.spread if known else features * 0
        found = {"standardised features": centred}
    else:
        found = {"features": features}
    return {name: points.double().cpu().numpy() for name, points in found.items()}


# Words


def explain(route: PromptRoute) -> list[str]:
    """What a prompt's route rests on and what would change it, sentence by sentence."""
    if not route.scores and route.bypassed:
        return ["Nothing is learned yet, so the plain network answers."]
    chosen = zip(route.experts, route.gates, strict=True)
    said = [f"Expert {expert} answers with gate weight {gate:.2f}." for expert, gate in chosen]
    if route.bypassed:
        said = ["The plain network answers."]
    if route.threshold is None:
        said.append("This router never bypasses: some expert always answers.")
    elif route.nearest:
        near = route.nearest[0]
        where = f"the nearest anchor, of edit {near.edit.id} (batch {near.batch})"
        would = "".join(f" to go to expert {expert}" for expert in route.candidates)
        said.append(
            f"It lacks {-route.slack:.3f} similarity to {where}{would}: it has "
            f"{near.similarity:.3f} and needs {route.threshold:.3f}."
            if route.bypassed
            else f"It could lose {route.slack:.3f} of its similarity {near.similarity:.3f} to "
            f"{where} before the plain network answers (below {route.threshold:.3f})."
        )
    return [*said, _rivalry(route)]


def summary(route: PromptRoute) -> str:
    """The same in a few words."""
    parts = []
    if route.slack is not None:
        word = "lacks" if route.bypassed else "could lose"
        parts.append(f"{word} {abs(route.slack):.3f} similarity")
    if rival := route.runner_up:
        parts.append(f"next is {rival.expert}, {rival.margin:.3f} behind")
    return "; ".join(parts) or "nothing competes"


def _rivalry(route: PromptRoute) -> str:
    rival = route.runner_up
    if rival is None:
        return "No other expert competes for it."
    if route.unit != "similarity":
        return f"Next comes expert {rival.expert}, {rival.margin:.3f} behind in {route.unit}."
    score = dict(route.scores)[rival.expert]
    out_of_reach = route.threshold is not None and score < route.threshold
    below = ", itself below the threshold" if out_of_reach else ""
    return (
        f"Next comes expert {rival.expert}: its nearest anchor has similarity {score:.3f}, "
        f"{rival.margin:.3f} less{below}."
    )


def route_html(route: PromptRoute) -> str:
    """What the route rests on, what would change it, gate weights, and the nearest edits."""
    weights = ", ".join(f"{e}: {w:.2f}" for e, w in route.weights.items() if w > LEAST_WEIGHT)
    note = f"<p class='lemoe-faint'>gate weights {weights}</p>" if len(route.weights) > 1 else ""
    rows = [
        (number(near.similarity), near.batch, near.expert, f"{near.edit.prompt} {near.edit.target}")
        for near in route.nearest
    ]
    columns = ["similarity", "batch", "expert", "nearest edits"]
    table = table_html(pd.DataFrame(rows, columns=columns)) if rows else ""
    return f"<p>{escape(' '.join(explain(route)))}</p>{note}{table}"
