"""An editor that builds on none of the shared classes: all that is asked of it is ``Editor``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from pydantic import Field
from test_editors import *  # noqa: F403  the specification that every editor meets

import lemoe_lab as ll
from lemoe_lab.editors import Editor, EditorConfig
from lemoe_lab.editors.base import TrainingReport
from lemoe_lab.editors.shared.gradients import edit_losses
from lemoe_lab.host.surroundings import learning


class SteppedMatrixConfig(EditorConfig):
    layer: int = Field(4, ge=0)
    steps: int = Field(25, ge=1)
    learning_rate: float = Field(5e-3, gt=0)


class SteppedMatrix(Editor):
    """Fine-tuning of one matrix, each batch kept as what it added."""

    Config = SteppedMatrixConfig
    config: SteppedMatrixConfig

    @property
    def layer(self) -> int:
        return self.config.layer

    @property
    def steps(self) -> int:
        return len(self.applied)

    @property
    def version(self) -> tuple:
        return tuple(map(id, self.applied))

    def attach(self, host, stream, calibration=None) -> None:
        weight = host.ffn_output(self.config.layer).weight
        host.claim(self)
        self.host, self.weight, self.plain = host, weight, weight.data
        self.applied: list[torch.Tensor] = []  # the weight after every batch
        self.undone: list[torch.Tensor] = []

    def detach(self) -> None:
        if "weight" in vars(self):
            self.weight.data = self.plain
            self.host.release()
            del self.weight

    @learning
    def edit(self, batch, on_step=None) -> TrainingReport:
        host, config = self.host, self.config
        states = host.states([host.encode(e.prompt, e.target) for e in batch], config.layer)
        before, losses = self.weight.data, []
        self.weight.data = before.clone()
        self.weight.requires_grad_(True)
        try:
            optimiser = torch.optim.Adam([self.weight], config.learning_rate)
            for _ in range(config.steps):
                loss = edit_losses(host, states, config.layer).mean()
                losses.append(loss.item())
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
        except BaseException:
            self.weight.data = before
            raise
        finally:
            self.weight.requires_grad_(False)
            self.weight.grad = None
        self.applied.append(self.weight.data)
        self.undone.clear()
        return TrainingReport(losses)

    def undo(self) -> None:
        self.undone.append(self.applied.pop())
        self._show()

    def redo(self) -> None:
        self.applied.append(self.undone.pop())
        self._show()

    def _show(self) -> None:
        self.weight.data = self.applied[-1] if self.applied else self.plain

    def changed_tensors(self) -> tuple[str, ...]:
        return tuple(n for n, p in self.host.model.named_parameters() if p is self.weight)

    def step_state(self, step: int) -> dict[str, torch.Tensor]:
        return {"matrix": self.applied[step - 1]} if step else {}

    def load_step_state(self, step: int, state: dict[str, torch.Tensor]) -> None:
        self.applied.append(state["matrix"])
        self._show()

    @contextmanager
    def disabled(self) -> Iterator[None]:
        now, self.weight.data = self.weight.data, self.plain
        try:
            yield
        finally:
            self.weight.data = now


@pytest.fixture(params=[SteppedMatrix], ids=["from scratch"])
def editor(request) -> Callable[..., Editor]:
    return request.param


def test_its_memory_is_estimated_before_it_meets_a_host(host, stream, editor):
    estimate = ll.estimate_memory(host, editor(), stream)
    assert "nothing that grows" in str(estimate)
    assert not hasattr(editor(), "host")
