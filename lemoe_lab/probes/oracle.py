"""LEMoE's ceiling: what its experts know if every question found the right one."""

from __future__ import annotations

from typing import Any

import pandas as pd
import torch
from torch import Tensor

from ..adaptor.routing import BYPASS, Router, Routes, single_routes
from ..metrics import Measurement, table_of
from .collect import Sessions, labelled
from .forgetting import measurements

SUFFIX = ", oracle routing"
ASKED = ("reliability", "generality")


class ConstantRouter(Router):
    """Sends every input to one expert, or to none: for asking what a single expert knows."""

    def __init__(self, feature: str, expert: int) -> None:
        super().__init__()
        self.feature, self.expert = feature, expert

    def route(self, features: Tensor) -> Routes:
        expert = torch.full((len(features),), self.expert, device=features.device)
        return single_routes(expert, (expert != BYPASS).float())

    def grow(self, features: Tensor, expert: int, prompts: Tensor | None = None) -> None:
        raise NotImplementedError("a constant router learns nothing")

    def calibration_state(self) -> dict[str, Tensor]:
        return {}

    def step_state(self, expert: int) -> dict[str, Tensor]:
        return {}

    def load_step_state(self, expert: int, state: dict[str, Tensor]) -> None:
        raise NotImplementedError("a constant router learns nothing")

    def forget(self, expert: int) -> None:
        """There is nothing."""


def oracle(sessions: Sessions) -> pd.DataFrame:
    """Measurements after the last step with routes that know the answer.

    Prompts and rewordings go to the expert that learned their edit, locality prompts to none.
    Columns as in ``measurements``; the editor's name says ``oracle routing``.

    Raises
    ------
    ValueError
        For an editor whose batches do not have an expert each.
    """
    tables = []
    for label, session in labelled(sessions):
        if not session.editor.experts_frozen:
            raise ValueError(
                f"{label} has no expert of its own for every batch; the oracle needs LEMoE with "
                "new module insertion"
            )
        tables.append(measurements({label + SUFFIX: _measure(session)}))
    return pd.concat(tables, ignore_index=True)


class _Asked:
    """What ``measurements`` reads of a session."""

    def __init__(self, session: Any, rows: list[Measurement]) -> None:
        self.stream, self.editor = session.stream, session.editor
        self.metrics = table_of(rows)


def _measure(session: Any) -> _Asked:
    adaptor, applied = session.editor.adaptor, session.stream.batches[: session.steps]
    router = adaptor.router
    rows: list[Measurement] = []
    try:
        for batch in applied:
            adaptor.router = ConstantRouter(router.feature, batch.step - 1)
            rows += session.evaluator.measure(batch, session.steps, ASKED)
        adaptor.router = ConstantRouter(router.feature, BYPASS)
        rows += session.evaluator.measure(applied, session.steps, ["locality"])
    finally:
        adaptor.router = router
    return _Asked(session, rows)
