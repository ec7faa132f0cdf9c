"""Routers: from the features of prompts to the expert of each, or to none.

    routes = router.route(features)          # (N, d) -> Routes of N rows

Routers decide once an input, and only from the prompt.

``KVAnchorRouter``
    the paper's: learned keys against a learned projection of the mean prompt embedding.
``ScopedRouter``
    ours: every edit leaves one anchor in a frozen feature space; far from all anchors, no expert.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .anchors import AnchorMemory, Threshold

BYPASS = -1
UNKNOWN = 0  # the number of a prompt that nobody numbered; see `lemoe_lab.host.identity`
NOBODY = torch.iinfo(torch.long).max  # retired this anchor
SAME_PLACE = 1 - 1e-6  # cosine from which on rounding decides which of two anchors is nearer


@dataclass
class Routes:
    """Where the rows of a batch go.

    ``expert`` (N, k) holds expert indices, the first choice first, -1 for the plain FFN; ``gate``
    (N, k) the weights of the experts' outputs; ``similarity`` (N,) and ``anchor`` (N,) tell how
    near the nearest anchor is and which one it is (-1 where there are no anchors).
    """

    expert: Tensor
    gate: Tensor
    similarity: Tensor
    anchor: Tensor

    def __len__(self) -> int:
        return len(self.expert)

    def __getitem__(self, rows: Tensor | slice) -> Routes:
        return Routes(self.expert[rows], self.gate[rows], self.similarity[rows], self.anchor[rows])


def bypass_routes(count: int, device: torch.device | str = "cpu") -> Routes:
    """Every row takes the plain FFN."""
    return single_routes(
        torch.full((count,), BYPASS, device=device), torch.zeros(count, device=device)
    )


def single_routes(
    expert: Tensor,
    gate: Tensor,
    similarity: Tensor | None = None,
    anchor: Tensor | None = None,
) -> Routes:
    """One expert (N,) with one gate (N,) for every row."""
    similarity = torch.zeros_like(gate) if similarity is None else similarity
    anchor = torch.full_like(expert, BYPASS) if anchor is None else anchor
    return Routes(expert[:, None], gate[:, None], similarity, anchor)


class Router(nn.Module, ABC):
    """Routes from features: ``embedding`` (mean prompt embedding) or ``state`` (FFN input)."""

    feature: str
    per_token = False
    recalls = False  # experts read the anchor's own input at the prompt's last token
    bypass: Threshold | None = None  # only of routers with a memory of anchors
    memory: AnchorMemory

    @property
    def threshold(self) -> float | None:
        """The similarity below which no expert is used now; None: one always is."""
        return None if self.bypass is None else self.bypass.among(self.memory.count)

    @abstractmethod
    def route(self, features: Tensor) -> Routes:
        """Decide the routes of prompts with these features (N, d)."""

    def gate_of(self, features: Tensor, expert: int) -> Tensor:
        """The weight (N,) that ``expert`` has while it alone is trained on these prompts."""
        return torch.ones(len(features), device=features.device)

    @abstractmethod
    def grow(self, features: Tensor, expert: int, prompts: Tensor | None = None) -> None:
        """Make room for prompts with these features (n, d) that ``expert`` is to answer.

        ``prompts`` (n,) are their numbers, by which a router with anchors knows that an edit is
        newer than another of the same prompt.
        """

    @abstractmethod
    def calibration_state(self) -> dict[str, Tensor]:
        """The tensors that are there before the first batch."""

    def step_state(self, expert: int) -> dict[str, Tensor]:
        """Copies of what the batch of ``expert``, the last one learned, left here; -1: none was."""
        return self.memory.state(expert)

    def load_step_state(self, expert: int, state: dict[str, Tensor]) -> None:
        """Grow by the tensors of :meth:`step_state`."""
        self.memory.load(expert, state)

    def forget(self, expert: int) -> None:
        """Drop what the batches of ``expert`` and of later ones added.

        What every batch replaces stays; :meth:`load_step_state` brings that back.
        """
        self.memory.forget(expert)


class KVAnchorRouter(Router):
    """KV anchor routing (LEMoE, arXiv 2406.20030, eq. 4-6).

        v = W_up(SiLU(W_down e)),   g(i|e) = Top_k softmax_i(k_i . v),   k = 1

    e is the mean of the embedding layer's output over the prompt tokens. Key k_i is frozen with
    expert i; W_up and W_down go on training at every step.

    Parameters
    ----------
    width, value_width
        d of the host and the size of keys and values.
    mean
        Mean embedding of calibration prompts; stored addresses are relative to it.
    centred
        Let the projection see e relative to the mean, at length sqrt(d), instead of as it is.
    bypass
        The cosine similarity of the centred e to the nearest stored e that an expert needs to be
        used; None never bypasses, as in the paper.
    """

    feature = "embedding"

    def __init__(
        self,
        width: int,
        value_width: int,
        seed: int,
        mean: Tensor | None = None,
        centred: bool = False,
        bypass: Threshold | None = None,
    ) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.down = nn.Parameter(torch.randn(value_width, width, generator=generator) / width**0.5)
        self.up = nn.Parameter(
            torch.randn(value_width, value_width, generator=generator) / value_width**0.5
        )
        self.keys = nn.ParameterList()
        self.memory = AnchorMemory(width)
        self.register_buffer("centre", torch.zeros(width) if mean is None else mean)
        self.centred = centred
        self.bypass = bypass
        self.seed = seed

    def address(self, e: Tensor) -> Tensor:
        """Centred e of unit length (N, d): where an edit is stored."""
        return F.normalize(e - self.centre, dim=-1)

    def value(self, e: Tensor) -> Tensor:
        """The routing value v (N, k)."""
        if self.centred:
            e = self.address(e) * e.shape[-1] ** 0.5
        return F.silu(e @ self.down.T) @ self.up.T

    def logits(self, e: Tensor) -> Tensor:
        """k_i . v for every expert, (N, T)."""
        return self.value(e) @ torch.stack(list(self.keys)).T

    @torch.no_grad()
    def route(self, features: Tensor) -> Routes:
        if not len(self.keys):
            return bypass_routes(len(features), features.device)
        gate, expert = self.logits(features).softmax(-1).max(-1)
        similarity, anchor = self.memory.nearest(self.address(features))
        threshold = self.threshold
        if threshold is not None:
            outside = similarity < threshold
            expert = expert.masked_fill(outside, BYPASS)
            gate = gate.masked_fill(outside, 0.0)
        return single_routes(expert, gate, similarity, anchor)

    def gate_of(self, features: Tensor, expert: int) -> Tensor:
        return self.logits(features).softmax(-1)[:, expert]

    def rehearsal_loss(self) -> Tensor:
        """Cross-entropy of sending every stored address to its own expert."""
        e = self.memory.vectors[self.memory.active] + self.centre  # `value` centres it again
        return F.cross_entropy(self.logits(e), self.memory.expert[self.memory.active])

    def grow(self, features: Tensor, expert: int, prompts: Tensor | None = None) -> None:
        width = self.up.shape[0]
        generator = torch.Generator().manual_seed(self.seed * 100_003 + expert + 1)
        key = torch.randn(width, generator=generator) / width**0.5
        self._add_key(key.to(features.device))
        self.memory.add(self.address(features), expert, prompts)

    def _add_key(self, key: Tensor) -> None:
        self.keys[-1:].requires_grad_(False)
        self.keys.append(nn.Parameter(key))

    def calibration_state(self) -> dict[str, Tensor]:
        limit = {} if self.bypass is None else self.bypass.state()
        return {"centre": self.centre} | limit

    def step_state(self, expert: int) -> dict[str, Tensor]:
        trained = {"down": self.down, "up": self.up}
        if 0 <= expert < len(self.keys):
            trained["key"] = self.keys[expert]
        copies = {name: tensor.detach().clone() for name, tensor in trained.items()}
        return copies | super().step_state(expert)

    @torch.no_grad()
    def load_step_state(self, expert: int, state: dict[str, Tensor]) -> None:
        if "key" in state:
            self._add_key(state["key"].clone())
        super().load_step_state(expert, state)
        self.down.copy_(state["down"])
        self.up.copy_(state["up"])

    def forget(self, expert: int) -> None:
        self.keys = nn.ParameterList(list(self.keys)[: max(0, expert)])
        super().forget(expert)


class ScopedRouter(Router):
    """One anchor per edit in a frozen space where phrasings of one fact lie together.

    The feature is the frozen host's own hidden state of the last prompt token at the edited
    layer, taken through a projection that was calibrated once (see
    :mod:`lemoe_lab.adaptor.calibration`). Too far from all anchors, the input takes the plain FFN.
    Routes of edited prompts cannot change when edits are added: nothing here is trained
    afterwards, and each lies at its own anchor.
    """

    feature = "state"

    def __init__(
        self, centre: Tensor, projection: Tensor, bypass: Threshold, one_expert: bool = False
    ) -> None:
        super().__init__()
        self.register_buffer("centre", centre)  # (d,)
        self.register_buffer("projection", projection)  # (k, d)
        self.bypass = bypass
        self.one_expert = one_expert
        self.memory = AnchorMemory(projection.shape[0])

    def address(self, features: Tensor) -> Tensor:
        """Unit vectors (N, k) in the calibrated space."""
        return F.normalize((features - self.centre) @ self.projection.T, dim=-1)

    def nearest(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Similarity (N,) and index (N,) of the anchor that each prompt may be taken for."""
        return self.memory.nearest(self.address(features))

    @torch.no_grad()
    def route(self, features: Tensor) -> Routes:
        if not len(self.memory.expert):
            return bypass_routes(len(features), features.device)
        similarity, anchor = self.nearest(features)  # (N,), (N,)
        inside = similarity >= self.threshold
        expert = self.memory.expert[anchor] * (not self.one_expert)
        return single_routes(
            expert.masked_fill(~inside, BYPASS), inside.float(), similarity, anchor
        )

    def grow(self, features: Tensor, expert: int, prompts: Tensor | None = None) -> None:
        self.memory.add(self.address(features), expert, prompts)

    def calibration_state(self) -> dict[str, Tensor]:
        return {"centre": self.centre, "projection": self.projection} | self.bypass.state()
