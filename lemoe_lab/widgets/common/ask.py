"""Questions to the host with and without the edits, and where its router sends them.

answer = ask(session, "The prime minister of Gemland is")
answer.base, answer.edited, answer.route.expert
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...adaptor.anchors import AnchorMemory
from ...adaptor.routing import BYPASS, Router
from ...editors import Editor
from ...edits import Edit, trimmed_prompt
from ...session import EditSession
from .history import Track

TOP = 5
NEAREST = 3
Tokens = tuple[tuple[str, float], ...]  # pieces of text with their probabilities


@dataclass(frozen=True)
class NearEdit:
    """An edit whose anchor lies near the prompt: cosine similarity, and its batch."""

    edit: Edit
    batch: int
    similarity: float


@dataclass(frozen=True)
class Route:
    """Where the prompt goes.

    ``gates`` are the weights of the experts (index from 0, -1 the plain network), the largest
    first; ``threshold`` is the similarity below which the plain network answers, None where the
    method has none.
    """

    expert: int
    gates: tuple[tuple[int, float], ...]
    nearest: tuple[NearEdit, ...]
    threshold: float | None

    @property
    def bypassed(self) -> bool:
        """Whether the plain network answers."""
        return self.expert == BYPASS


@dataclass(frozen=True)
class Answer:
    """What the host says after ``prompt`` without (base) and with the edits applied now."""

    prompt: str
    step: int
    base: str
    edited: str
    base_tokens: Tokens
    edited_tokens: Tokens
    route: Route | None


@dataclass(frozen=True)
class OpenedEdit:
    """One edit with its state, the answers to its prompt and its rephrases, its expert by step."""

    edit: Edit
    state: str
    base: list[str]
    edited: list[str]
    path: dict[int, int]


def open_edit(session: EditSession, track: Track, edit: str) -> OpenedEdit:
    """Look closely at one edit of the stream, by its id."""
    found = next(one for one in session.stream.edits if one.id == edit)
    state = track.edits().set_index("edit")["state"][edit]
    prompts = [found.prompt, *(rephrase.prompt for rephrase in found.rephrases)]
    with session.editor.disabled():
        base = session.host.generate(prompts)
    edited = session.host.generate(prompts)
    return OpenedEdit(found, state, base, edited, track.path_of(edit))


def ask(session: EditSession, prompt: str) -> Answer:
    """Ask the host both ways.

    Raises
    ------
    EditError
        If the prompt is empty or too long for the host.
    """
    prompt = trimmed_prompt(prompt)
    host = session.host
    host.encode_prompt(prompt)
    with session.editor.disabled():
        base, base_tokens = host.generate(prompt), next_tokens(session, prompt)
    return Answer(
        prompt,
        session.steps,
        base,
        host.generate(prompt),
        base_tokens,
        next_tokens(session, prompt),
        route_of(session, prompt),
    )


@torch.no_grad()
def next_tokens(session: EditSession, prompt: str, count: int = TOP) -> Tokens:
    """The most probable next tokens after a prompt, with what is applied now."""
    host = session.host
    ids = torch.tensor([host.encode_prompt(prompt)], device=host.device)  # (1, L)
    logits = host.model(input_ids=ids, use_cache=False).logits[0, -1].float()  # (V,)
    best = logits.softmax(-1).topk(min(count, len(logits)))
    pieces = [host.tokenizer.decode([index]) for index in best.indices.tolist()]
    return tuple(zip(pieces, best.values.tolist(), strict=True))


@torch.no_grad()
def route_of(session: EditSession, prompt: str) -> Route | None:
    """Where a prompt goes now; None for an editor that does not route, or before its first step."""
    features = session.editor.prompt_features([prompt])
    routes = None if features is None else session.editor.routes(features)
    if routes is None:
        return None
    router = _router(session.editor)
    chosen = list(zip(routes.expert[0].tolist(), routes.gate[0].tolist(), strict=True))
    gates = gate_weights(router, features) or chosen
    return Route(
        expert=chosen[0][0],
        gates=tuple(sorted(gates, key=lambda pair: -pair[1])[:TOP]),
        nearest=tuple(nearest_edits(session, router, features)),
        threshold=None if router is None else router.threshold,
    )


def gate_weights(router: Router | None, features: Tensor) -> list[tuple[int, float]]:
    """The weight of every expert where a router computes it; empty where it only picks one."""
    if hasattr(router, "probabilities") and router.spread.any():
        weights = router.probabilities(features)[0]
    elif hasattr(router, "logits") and len(router.keys):
        weights = router.logits(features).softmax(-1)[0]
    else:
        return []
    return list(enumerate(weights.tolist()))


def nearest_edits(
    session: EditSession, router: Router | None, features: Tensor, count: int = NEAREST
) -> list[NearEdit]:
    """The edits whose anchors lie nearest to a prompt, the nearest first."""
    memory: AnchorMemory | None = getattr(router, "memory", None)
    if memory is None or not len(memory.vectors):
        return []
    similarity = (router.address(features) @ memory.vectors.T)[0]  # (A,)
    similarity = similarity.masked_fill(~memory.active, -2.0)
    best = similarity.topk(min(count, int(memory.active.sum())))
    anchored = _anchored(session.stream.batches)
    return [
        NearEdit(*anchored[index], value)
        for index, value in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    ]


def _anchored(batches: Sequence) -> list[tuple[Edit, int]]:
    """Edits with their batches in the order in which they leave anchors."""
    return [(edit, batch.step) for batch in batches for edit in batch]


def _router(editor: Editor) -> Router | None:
    adaptor = getattr(editor, "adaptor", None)
    return None if adaptor is None else adaptor.router
