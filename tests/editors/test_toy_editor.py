"""An editor that one file defines is an editor everywhere.

Two toys stand here, and nothing anywhere else knows of them: one hangs on the host and answers
prompts that it has notes on, one overwrites a weight. They meet the specification of all editors.
"""

from __future__ import annotations

import inspect
import json
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import ClassVar

import matplotlib.pyplot as plt
import pytest
import torch
from matplotlib.colors import to_hex
from pydantic import Field
from test_editors import *  # noqa: F403  the specification that every editor meets
from torch import Tensor, nn
from torch.nn import functional as F

import lemoe_lab as ll
from lemoe_lab import EditSession, RunError
from lemoe_lab.editors import ConfigError, Editor, EditorConfig, Footprint, Preset, Workload
from lemoe_lab.editors.base import OnStep, TrainingReport, train
from lemoe_lab.editors.fine_tune import Descent
from lemoe_lab.editors.shared.gradients import edit_losses
from lemoe_lab.editors.shared.replacing import Replacement, ReplacingConfig, ReplacingEditor
from lemoe_lab.editors.shared.weights import WeightEditor
from lemoe_lab.edits import EditBatch, EditStream
from lemoe_lab.host.encoding import TokenSequence
from lemoe_lab.sweeps import Run, execute
from lemoe_lab.widgets.common.choices import editor_specs


class NotesConfig(ReplacingConfig):
    tolerance: float = Field(0.02, gt=0)


class PromptNotes(ReplacingEditor):
    """A note on every prompt: the vector that answers it instead of an FFN."""

    Config = NotesConfig
    config: NotesConfig

    def _prepare(self, stream: EditStream, calibration: dict[str, Tensor] | None) -> None:
        self.notes: tuple[tuple[Tensor, Tensor], ...] = ()  # (n, d), (n, d) for every batch

    def _decide(self, queries: Tensor) -> Replacement | None:
        if not self.notes:
            return None
        keys, values = map(torch.cat, zip(*reversed(self.notes), strict=True))  # newest first
        known = torch.cdist(queries, keys) <= self.config.tolerance * keys.norm(dim=1)
        return Replacement(values[known.int().argmax(1)], known.any(1))

    def _learn(
        self, batch: EditBatch, sequences: Sequence[TokenSequence], on_step: OnStep | None
    ) -> TrainingReport:
        config, host = self.config, self.host
        with self.disabled():
            states = host.states(sequences, self.layer)
        ids, values = host.target_ids(sequences), torch.zeros_like(states.prompt_state)
        values = nn.Parameter(values)

        def loss_of() -> Tensor:
            with self._replacing(Replacement.whole(values)):
                hidden = host.finish(states, self.layer)
            return F.cross_entropy(host.target_logits(hidden, sequences), ids)

        groups = [([values], config.learning_rate)]
        losses = train(groups, loss_of, config.steps, config.loss_threshold, on_step)
        self.notes = (*self.notes, (states.prompt_state, values.detach()))
        return TrainingReport(losses)

    def _snapshot(self) -> object:
        return self.notes

    def _restore(self, snapshot: object) -> None:
        self.notes = snapshot

    def step_state(self, step: int) -> dict[str, Tensor]:
        return dict(zip(("keys", "values"), self._after(step)[-1], strict=True)) if step else {}

    def _load(self, state: dict[str, Tensor]) -> None:
        self.notes = (*self.notes, (state["keys"], state["values"]))

    def footprint(self, work: Workload) -> Footprint:
        return Footprint(work.edits * 2 * self.host.width * 4, 0, f"notes on {work.edits} prompts")


class LastMatrixConfig(EditorConfig):
    layer: int | None = Field(None, ge=0)
    steps: int = Field(25, ge=1)
    learning_rate: float = Field(5e-3, gt=0)


class LastMatrix(WeightEditor):
    """Fine-tuning of the topmost FFN."""

    Config = LastMatrixConfig
    config: LastMatrixConfig
    presets: ClassVar = {
        "last matrix": Preset("the topmost matrix, tuned", colour="#123456"),
        "last matrix, slow": Preset("the same in small steps", {"learning_rate": 1e-3}),
    }

    @property
    def layer(self) -> int:
        return len(self.host.layers) - 1 if self.config.layer is None else self.config.layer

    def _edited_weights(self) -> Sequence[nn.Parameter]:
        return [self.host.ffn_output(self.layer).weight]

    def _overwrite(
        self, batch: EditBatch, sequences: Sequence[TokenSequence], on_step: OnStep | None
    ) -> TrainingReport:
        states, losses = self.host.states(sequences, self.layer), []
        with self.trainable() as parameters:
            descent = Descent(parameters, self.config.learning_rate)
            for _ in range(self.config.steps):
                loss = edit_losses(self.host, states, self.layer).mean()
                losses.append(loss.item())
                descent.step(loss)
        return TrainingReport(losses)


TOYS = {"notes": PromptNotes, "last matrix": LastMatrix}


@pytest.fixture(params=TOYS.values(), ids=TOYS.keys())
def editor(request) -> Callable[..., Editor]:
    """Who meets the specification here."""
    return request.param


# What follows from the class alone


def test_an_editor_is_found_by_the_name_of_its_class(editor):
    assert ll.editors.by_name(editor.__name__) is editor


def test_a_run_of_a_sweep_is_plain_data_and_comes_to_what_a_session_does(host, stream, editor):
    run = Run(editor=editor(steps=5), stream=stream, keep=("reliability",))
    run = Run.model_validate_json(run.model_dump_json())
    found = execute(run, host)["measurements"]
    with EditSession(host, editor(steps=5), stream, progress=False) as session:
        session.run()
        expected = ll.probes.measurements(session).query("metric == 'reliability'")
    assert found["value"].tolist() == expected["value"].tolist()
    assert run.name["editor"] == editor(steps=5).name


def test_its_memory_is_estimated(host, stream, editor):
    estimate = ll.estimate_memory(host, editor(), stream)
    assert estimate.held > 0
    assert estimate.holds in str(estimate)


def test_an_editor_that_does_not_say_what_it_keeps_is_estimated_all_the_same(
    host, stream, forgotten
):
    class Silent(PromptNotes):
        footprint = Editor.footprint

    estimate = ll.estimate_memory(host, Silent(), stream)
    assert "nothing that grows" in str(estimate)
    assert estimate.total > estimate.host


def test_figures_draw_it_in_its_colour(host, stream, editor):
    with EditSession(host, editor(steps=5), stream, progress=False) as session:
        session.run()
        ax = ll.plots.reliability_over_batches(ll.probes.forgetting(session))
    colours = {to_hex(line.get_color()) for line in ax.get_lines()}
    plt.close(ax.figure)
    assert ll.plots.method_colour(editor().name).lower() in colours


def test_a_preset_may_name_its_colour_and_gets_one_that_lasts_if_it_does_not():
    assert ll.plots.method_colour("last matrix") == "#123456"
    assert ll.plots.method_colour("PromptNotes") == ll.plots.method_colour("PromptNotes")


@pytest.mark.parametrize("name", ["PromptNotes", "last matrix", "last matrix, slow"])
def test_panels_and_presets_offer_it_under_its_names(name):
    made = editor_specs(ll.editors.LEMoE())[name].make(seed=4)
    assert made.name == name
    assert made.config == ll.editors.preset(name, seed=4).config


@pytest.mark.parametrize("name", ["PromptNotes", "last matrix, slow"])
def test_the_code_that_a_panel_writes_makes_it(name):
    spec = editor_specs(ll.editors.LEMoE())[name]
    made = eval(spec.code(seed=2), {"ll": ll})
    assert (made.name, made.config) == (name, spec.make(seed=2).config)


def test_an_editor_without_presets_is_offered_with_the_first_line_of_its_docstring():
    assert ll.editors.PRESETS["PromptNotes"].startswith("A note on every prompt")


def test_an_editor_is_called_like_the_preset_that_says_most_of_its_settings():
    assert LastMatrix(learning_rate=1e-3, seed=3).name == "last matrix, slow"
    assert LastMatrix(learning_rate=1e-2, seed=3).name == "last matrix"


def test_editors_of_others_follow_those_of_the_library_and_stay_out_of_the_compared_ones():
    names = list(ll.editors.PRESETS)
    ours = [n for n in names if ll.editors.preset_settings(n)[0].__module__.startswith("lemoe_lab")]
    assert names[: len(ours)] == ours
    assert not {"PromptNotes", "last matrix"} & set(ll.editors.COMPARED)


@pytest.mark.parametrize("kind", [ll.editors.LEMoE, ll.editors.UltraEdit, PromptNotes, LastMatrix])
def test_the_signature_of_an_editor_shows_its_settings_and_their_defaults(kind):
    shown = inspect.signature(kind).parameters
    defaults = kind.Config().model_dump()
    assert {name: parameter.default for name, parameter in shown.items()} == defaults
    assert "Annotated" not in str(inspect.signature(kind))


# What is known


@pytest.fixture
def forgotten(monkeypatch):
    """What a test defines is not known after it."""
    monkeypatch.setattr(Editor, "known", dict(Editor.known))


def test_what_cannot_be_made_is_not_known(forgotten):
    class Unfinished(PromptNotes):
        @abstractmethod
        def more(self) -> None: ...

    with pytest.raises(ConfigError, match="no editor 'Unfinished'"):
        ll.editors.by_name("Unfinished")


def test_an_editor_that_is_defined_again_takes_the_older_ones_place(forgotten):
    def defined(rate: float) -> type[Editor]:
        class Twice(LastMatrix):
            presets: ClassVar = {"twice": Preset(f"at {rate}", {"learning_rate": rate})}

        return Twice

    first, second = defined(0.1), defined(0.2)
    assert first is not second
    assert ll.editors.by_name("Twice") is second
    assert ll.editors.preset("twice").config.learning_rate == 0.2


def test_a_variation_for_a_moment_is_known_but_not_offered(forgotten):
    class Louder(LastMatrix):
        pass

    assert ll.editors.by_name("Louder") is Louder
    assert Louder().name == "Louder"
    assert "Louder" not in ll.editors.PRESETS


def test_a_name_of_the_library_cannot_be_taken(forgotten):
    with pytest.raises(TypeError, match="lemoe_lab.editors.grace has an editor GRACE already"):

        class GRACE(LastMatrix):
            pass

    assert ll.editors.by_name("GRACE") is ll.editors.GRACE


# Where its file was not imported


@pytest.fixture
def unknown(host, stream, forgotten, tmp_path):
    """A run and an export of an editor that is not known any more, in a folder."""
    with EditSession(host, PromptNotes(steps=5), stream, progress=False) as session:
        session.step()
        session.save(tmp_path / "run")
        session.export(tmp_path / "export")
    del Editor.known["PromptNotes"]
    return tmp_path


def test_a_saved_run_says_which_editor_is_missing_and_what_to_do(unknown, host):
    with pytest.raises(RunError, match="'PromptNotes'.*import the file that defines it"):
        EditSession.resume(unknown / "run", host)
    host.require_free()


def test_an_export_says_which_editor_is_missing_and_what_to_do(unknown, host):
    with pytest.raises(RunError, match="'PromptNotes'.*import the file that defines it"):
        ll.load_adaptor(host.model, unknown / "export", host.tokenizer)
    host.require_free()


def test_edits_that_are_weights_load_where_the_editor_is_unknown(host, stream, forgotten, tmp_path):
    with EditSession(host, LastMatrix(steps=5), stream, progress=False) as session:
        session.step()
        session.export(tmp_path / "export")
        answers = host.generate([edit.prompt for edit in stream.edits])
    del Editor.known["LastMatrix"]
    assert json.loads((tmp_path / "export" / "adapter_config.json").read_text())["changed_tensors"]
    with ll.load_adaptor(host.model, tmp_path / "export", host.tokenizer) as adaptor:
        assert adaptor.host.generate([edit.prompt for edit in stream.edits]) == answers


def test_a_sweep_says_which_editor_is_missing_and_what_to_do(stream, forgotten):
    plain = Run(editor=PromptNotes(), stream=stream).model_dump_json()
    del Editor.known["PromptNotes"]
    with pytest.raises(ValueError, match="'PromptNotes'.*import the file that defines it"):
        Run.model_validate_json(plain)
