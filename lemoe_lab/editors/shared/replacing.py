"""What the editors share that put something else in the place of an FFN's output.

    h = (1 - g) FFN(x) + g v             at the places that the method replaces

Which rows are replaced (g), and by what (v), is decided once, from the FFN's input at the last
prompt token, and kept for the whole answer.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from ...edits import EditStream
from ...host.hooks import PromptGate
from ...host.prompts import Prompt, last_of
from ..base import EditorConfig, two_thirds_up
from .reversible import HookedEditor

Places = Literal["replace_prompt", "replace_last", "replace_all"]


class ReplacingConfig(EditorConfig):
    """Settings of every editor that replaces an FFN's output.

    Parameters
    ----------
    layer
        The decoder layer whose FFN's output is replaced, from 0; None: two thirds up.
    replacement
        Where an input in scope gets the new output: at every token of its prompt, at its last
        token, or at all tokens, those of the answer included. Only the last writes long answers on
        a host as small as the embedded one, with little above the layer to read them from a prompt.
    steps, learning_rate, loss_threshold
        AdamW takes at most ``steps`` steps at each batch, fewer once the loss is below
        ``loss_threshold``.
    """

    layer: int | None = Field(None, ge=0)
    replacement: Places = "replace_all"
    steps: int = Field(100, ge=1)
    learning_rate: float = Field(1.0, gt=0)
    loss_threshold: float = Field(0.003, ge=0)


@dataclass(frozen=True)
class Replacement:
    """What takes the place of an FFN's output for the rows of a forward pass.

    ``values`` (B, d); ``share`` (B,) says how much of the output they replace: all or nothing if it
    is bool, a share in [0, 1] if it is a float.
    """

    values: Tensor
    share: Tensor

    @classmethod
    def whole(cls, values: Tensor) -> Replacement:
        """Every row takes its value (B, d)."""
        return cls(values, torch.ones(len(values), dtype=torch.bool, device=values.device))

    def applied(self, output: Tensor, places: Tensor) -> Tensor:
        """The output (B, L, d) replaced at ``places`` (B or 1, L); other rows stay bit for bit."""
        values = self.values[:, None]  # (B, 1, d)
        if self.share.dtype == torch.bool:
            chosen = (self.share[:, None] & places)[..., None]  # (B, L, 1)
            return torch.where(chosen, values.to(output.dtype), output)
        share = (self.share[:, None] * places)[..., None]  # (B, L, 1)
        return (share * values + (1 - share) * output.float()).to(output.dtype)


def replaced_places(replacement: Places, last: Tensor | None, length: int) -> Tensor:
    """Tokens (B or 1, L) whose output is replaced, where prompts end at ``last`` (B,).

    ``last`` is None while decoding after a cached prompt.
    """
    if replacement == "replace_all" or last is None:
        return torch.full((1, length), replacement == "replace_all")
    place = torch.arange(length, device=last.device)
    return place <= last[:, None] if replacement == "replace_prompt" else place == last[:, None]


class ReplacingEditor(HookedEditor):
    """An editor that replaces the output of one FFN for inputs in its scope.

    A method says what it needs to know first, and what it puts in the place of which rows.
    """

    config: ReplacingConfig

    @abstractmethod
    def _prepare(self, stream: EditStream, calibration: dict[str, Tensor] | None) -> None:
        """Calibrate, unless a calibration is given, and start with nothing learned."""

    @abstractmethod
    def _decide(self, queries: Tensor) -> Replacement | None:
        """What answers prompts whose last token's FFN input is ``queries`` (B, d)."""

    @property
    def layer(self) -> int:
        return two_thirds_up(self.host, self.config.layer)

    def _hang_on(self, stream: EditStream, calibration: dict[str, Tensor] | None) -> None:
        ffn = self.host.ffn(self.layer)
        self._prepare(stream, calibration)
        self._gate = PromptGate(
            lambda x, prompt: self._decide(last_of(x, prompt)), self._replaced, self._applied
        )
        self._detach = self._gate.attach(self.host.model, self.host.decoder, ffn)

    def _replaced(
        self, x: Tensor, output: Tensor, decision: Replacement, prompt: Prompt | None
    ) -> Tensor:
        """The FFN's output (B, L, d), replaced where its input x (B, L, d) is in scope."""
        last = None if prompt is None else prompt.last
        places = replaced_places(self.config.replacement, last, x.shape[1])
        return decision.applied(output, places.to(x.device))

    @contextmanager
    def _replacing(self, given: Replacement) -> Iterator[None]:
        """Forward passes inside take this replacement, whatever their prompts are."""
        with self._gate.overridden(given):
            yield

    @contextmanager
    def disabled(self) -> Iterator[None]:
        with self._gate.muted():
            yield
