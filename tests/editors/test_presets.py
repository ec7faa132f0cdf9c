"""One preset, one name: what figures, notebooks, panels and benchmarks mean by an editor's name."""

import re
from pathlib import Path

import nbformat
import pytest

import lemoe_lab as ll
from lemoe_lab.editors import COMPARED, PRESETS, ConfigError, preset, preset_settings
from lemoe_lab.widgets.common.choices import editor_specs

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
RATE = re.compile(r"\b(?:router_)?learning_rate\b|\brates\b")
OURS = [name for name in PRESETS if preset_settings(name)[0].__module__.startswith("lemoe_lab.")]
LEMOE_VARIANT = re.compile(r"LEMoE\([^)]*(?:routing|insert|centre|bypass|rehearse_anchors)")


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_calls_itself_by_its_name(name):
    assert preset(name).name == name


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_has_a_description_of_its_own(name):
    assert PRESETS[name] and list(PRESETS.values()).count(PRESETS[name]) == 1


def test_every_editor_class_has_a_preset():
    kinds = {preset_settings(name)[0] for name in OURS}
    exported = (getattr(ll.editors, name) for name in ll.editors.__all__)
    assert kinds == {kind for kind in exported if hasattr(kind, "Config")}


def test_no_two_presets_are_the_same_editor():
    made = [(type(preset(name)), preset(name).config) for name in PRESETS]
    assert all(made.count(one) == 1 for one in made)


def test_a_preset_makes_a_new_editor_each_time_and_takes_other_settings():
    literal = preset("LEMoE KV anchor, literal", seed=3, steps=7)
    assert literal is not preset("LEMoE KV anchor, literal", seed=3, steps=7)
    assert (literal.config.seed, literal.config.steps) == (3, 7)
    assert literal.config.router_learning_rate == preset(literal.name).config.router_learning_rate


def test_overriding_a_preset_leaves_it_as_it_is():
    preset("one expert", learning_rate=0.5)
    preset_settings("one expert")[1]["learning_rate"] = 0.5
    assert preset("one expert").config.learning_rate != 0.5


def test_an_unknown_preset_is_refused_with_those_there_are():
    with pytest.raises(ConfigError, match="no preset 'LEMoE anchors'.*LEMoE scoped"):
        preset("LEMoE anchors")


def test_the_compared_editors_are_presets():
    assert set(COMPARED) <= set(PRESETS)


@pytest.mark.parametrize("kind", ["GRACE", "WISE", "AlphaEdit", "UltraEdit"])
def test_a_variant_keeps_its_name_with_other_settings_and_the_plain_editor_has_its_own(kind):
    (variant,) = [name for name in PRESETS if name.startswith(f"{kind}, ")]
    assert preset(variant, seed=5).name == variant
    assert preset(kind, seed=5).name == kind


@pytest.mark.parametrize("name", PRESETS)
def test_panels_offer_every_preset_under_its_name(name):
    made = editor_specs(preset("LEMoE scoped"))[name].make(seed=4)
    assert (made.name, made.config) == (name, preset(name, seed=4).config)


def test_every_preset_has_a_colour_of_its_own():
    colours = [ll.plots.method_colour(name) for name in OURS]
    assert set(OURS) <= set(ll.plots.METHOD_COLOURS)
    assert len(set(colours)) == len(colours)


def test_a_panel_writes_a_preset_in_full():
    code = editor_specs(preset("LEMoE scoped"))["LEMoE KV anchor, literal"].code(seed=2)
    made = eval(code, {"ll": ll})
    assert made.config == preset("LEMoE KV anchor, literal", seed=2).config


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_takes_its_tuned_editors_from_the_presets(path):
    notebook = nbformat.read(path, as_version=4)
    code = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    assert not [source for source in code if RATE.search(source) or LEMOE_VARIANT.search(source)]
