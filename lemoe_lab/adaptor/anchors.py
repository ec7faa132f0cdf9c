"""Anchors: the places of edits in a space of prompts, and how near a prompt must come to one."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

UNKNOWN = 0  # the number of a prompt that nobody numbered; see `lemoe_lab.host.identity`
NOBODY = torch.iinfo(torch.long).max  # retired this anchor
SAME_PLACE = 1 - 1e-6  # cosine from which on rounding decides which of two anchors is nearer


@dataclass(frozen=True)
class Threshold:
    """The similarity that a prompt needs to be taken for one of so many edits.

    A prompt is compared with every anchor, so among more of them it resembles one by chance more
    often. Past the number of anchors that it was calibrated with, the threshold rises: each anchor
    may look like an unrelated prompt less often in the same proportion.

    Parameters
    ----------
    rivals
        The highest similarities of prompts to anchors of other facts (k,), in falling order.
    rank
        Where among them the threshold lies: that many look alike. Between two, it is interpolated.
    anchors
        The number of anchors that this was found with.
    """

    rivals: Tensor
    rank: float = 0.0
    anchors: int = 1

    @classmethod
    def of_state(cls, state: Mapping[str, Tensor]) -> Threshold:
        """What :meth:`state` gave."""
        return cls(state["rivals"], state["rank"].item(), int(state["anchors"]))

    def state(self) -> dict[str, Tensor]:
        """What is stored of it."""
        rank = torch.tensor(self.rank, dtype=torch.double)
        return {"rivals": self.rivals, "rank": rank, "anchors": torch.tensor(self.anchors)}

    def among(self, anchors: int) -> float:
        """The similarity that is needed among so many anchors."""
        rank = self.rank * min(1.0, self.anchors / max(1, anchors))
        above = self.rivals[math.floor(rank)].item()
        below = self.rivals[math.ceil(rank)].item()
        return above + (below - above) * (rank % 1)


class AnchorMemory(nn.Module):
    """Unit vectors with the expert that each belongs to; experts come in rising order.

    An anchor whose prompt a newer one has is retired: kept, but never nearest. So is one at the
    place of a newer one, which no query could tell apart from it. Room for more anchors is doubled
    when it is used up, so that adding one costs the same however many there are.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        numbers = torch.empty(0, dtype=torch.long)
        self.register_buffer("_vectors", torch.empty(0, width))
        self.register_buffer("_expert", numbers)
        self.register_buffer("_prompt", numbers.clone())
        self.register_buffer("_retired_by", numbers.clone())
        self._length = 0

    @property
    def vectors(self) -> Tensor:
        """Where the anchors are, (A, k)."""
        return self._vectors[: self._length]

    @property
    def expert(self) -> Tensor:
        """The expert of each, (A,)."""
        return self._expert[: self._length]

    @property
    def prompt(self) -> Tensor:
        """The number of each one's prompt, (A,); see :mod:`lemoe_lab.host.identity`."""
        return self._prompt[: self._length]

    @property
    def retired_by(self) -> Tensor:
        """The expert that has a newer anchor in the place of each, (A,), or ``NOBODY``."""
        return self._retired_by[: self._length]

    @property
    def active(self) -> Tensor:
        """Which anchors are not retired, (A,) bool."""
        return self.retired_by == NOBODY

    @property
    def count(self) -> int:
        """How many anchors are active."""
        return int(self.active.sum())

    def add(self, vectors: Tensor, expert: int, prompts: Tensor | None = None) -> None:
        """Remember unit vectors (n, k) of one expert, and retire older anchors that they replace.

        ``prompts`` (n,) are the numbers of their prompts; None: unknown.
        """
        prompts = self._prompt.new_full((len(vectors),), UNKNOWN) if prompts is None else prompts
        same = torch.isin(self.prompt, prompts) & (self.prompt != UNKNOWN)
        if len(vectors):
            same |= (self.vectors @ vectors.T).amax(1) >= SAME_PLACE
        self._append(vectors, expert, prompts, (same & self.active).nonzero()[:, 0])

    def _append(self, vectors: Tensor, expert: int, prompts: Tensor, retired: Tensor) -> None:
        self._retired_by[retired] = expert
        start, end = self._length, self._length + len(vectors)
        self._make_room(end)
        self._length = end
        self._vectors[start:end] = vectors
        self._expert[start:end] = expert
        self._prompt[start:end] = prompts
        self._retired_by[start:end] = NOBODY

    def _make_room(self, length: int) -> None:
        if length <= len(self._vectors):
            return
        for name, buffer in list(self.named_buffers(recurse=False)):
            grown = buffer.new_empty(max(length, 2 * len(buffer)), *buffer.shape[1:])
            grown[: self._length] = buffer[: self._length]
            setattr(self, name, grown)

    def forget(self, expert: int) -> None:
        """Be as before there were anchors of ``expert`` and all later ones."""
        self._length = int((self.expert < expert).sum())
        self._retired_by[self._retired_by >= expert] = NOBODY

    def state(self, expert: int) -> dict[str, Tensor]:
        """What :meth:`load` needs to bring the anchors of one expert back."""
        own = self.expert == expert
        return {
            "anchors": self.vectors[own],
            "anchors.prompts": self.prompt[own],
            "anchors.retired": (self.retired_by == expert).nonzero()[:, 0],
        }

    def load(self, expert: int, state: Mapping[str, Tensor]) -> None:
        """Take what :meth:`state` gave of an expert; it is newer than all that are here."""
        names = ("anchors.prompts", "anchors.retired")
        self._append(state["anchors"], expert, *(state[name] for name in names))

    def nearest(self, queries: Tensor, possible: Tensor | bool = True) -> tuple[Tensor, Tensor]:
        """Cosine similarity (N,) and index (N,) of the nearest active anchor, earliest if tied.

        ``possible`` (N, A) says which anchors a query may be taken for. Both are -1 where there are
        no anchors.
        """
        if not len(self.vectors):
            nowhere = torch.full((len(queries),), -1, device=queries.device)
            return queries.new_full((len(queries),), -1.0), nowhere
        similarity = queries @ self.vectors.T  # (N, A)
        similarity = similarity.masked_fill(~(self.active & possible), -2.0)
        best = similarity.amax(1)
        index = torch.arange(len(self.vectors), device=queries.device)
        tied = similarity == best[:, None]
        return best, torch.where(tied, index, len(index)).amin(1)
