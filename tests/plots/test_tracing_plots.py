"""Figures of causal tracing say what they show; never pixels."""

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex

from lemoe_lab import plots
from lemoe_lab.plots.tracing import PART_COLOURS

EFFECTS = {"state": 0.6, "ffn": 0.2, "attention": 0.1}


@pytest.fixture(autouse=True)
def closed_figures():
    yield
    plt.close("all")


def traced(layers=6, facts=5, seeds=(0,), window=1, host="tiny"):
    """Effects that grow with the layer: at the last one those of EFFECTS at the last prompt token,
    half of it at the last subject token. The total effect is 0.8."""
    tokens = {"last subject": 0.5, "last prompt": 1.0}
    rows = [
        {"host": host, "seed": seed, "noise": 3.0, "samples": 10, "window": window}
        | {"fact": f"fact {i}", "answer": "x", "part": part, "layer": layer, "token": token}
        | {"clean": 0.9, "corrupted": 0.1, "effect": effect * share * layer / (layers - 1)}
        for seed in seeds
        for i in range(facts)
        for part, effect in EFFECTS.items()
        for layer in range(layers)
        for token, share in tokens.items()
    ]
    return pd.DataFrame(rows).assign(restored=lambda frame: 0.1 + frame["effect"])


def caption_of(ax):
    (text,) = [text for text in ax.texts if text.get_gid() == "caption"]
    return " ".join(text.get_text().split())


def ticks(axis):
    return [label.get_text() for label in axis.get_ticklabels()]


# Heatmap


@pytest.mark.parametrize("part", EFFECTS)
def test_heatmap_shows_mean_effects_of_one_part_by_token_and_layer(part):
    ax = plots.causal_tracing(traced(), part=part)
    (image,) = ax.collections
    assert image.get_array().shape == (2, 6)
    assert image.get_array()[1, 5] == pytest.approx(EFFECTS[part])
    assert image.get_array()[0, 5] == pytest.approx(EFFECTS[part] / 2)
    assert ticks(ax.yaxis) == ["last subject", "last prompt"]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("layer", "restored at")


def test_heatmaps_side_by_side_can_share_a_colour_bar():
    alone = plots.causal_tracing(traced())
    assert [bar.get_ylabel() for bar in alone.child_axes] == ["mean indirect effect"]
    assert not plots.causal_tracing(traced(), colour_bar=False).child_axes


def test_heatmap_sets_the_whole_subject_apart_and_above():
    whole = traced().query("token == 'last subject'").assign(token="whole subject")
    ax = plots.causal_tracing(pd.concat([traced(), whole]))
    assert ticks(ax.yaxis) == ["whole subject", "last subject", "last prompt"]
    assert [list(line.get_ydata()) for line in ax.lines] == [[1, 1]]
    assert not plots.causal_tracing(traced()).lines


def test_heatmap_colours_end_at_the_total_effect():
    ax = plots.causal_tracing(traced(), part="attention")
    assert ax.collections[0].get_clim() == pytest.approx((0, 0.8))


def test_heatmap_writes_its_numbers_where_there_is_room():
    few = plots.causal_tracing(traced())
    assert "0.60" in [text.get_text() for text in few.texts]
    many = plots.causal_tracing(traced(layers=48), plt.subplots(figsize=(6, 4))[1])
    assert [text.get_gid() for text in many.texts] == ["caption"]


def test_heatmap_never_writes_a_negative_zero():
    table = traced().assign(effect=-0.001)
    texts = [text.get_text() for text in plots.causal_tracing(table).texts]
    assert "0.00" in texts
    assert "-0.00" not in texts


def test_captions_name_facts_noise_seeds_and_host():
    ax = plots.causal_tracing(traced(facts=7, seeds=(1, 2)))
    assert "n = 7 facts, 10 draws of noise each (3 sd); seeds 1, 2; host: tiny" in caption_of(ax)
    assert "total effect 0.80" in caption_of(ax)


def test_window_is_named_for_what_is_restored_in_windows():
    table = traced(window=3)
    assert "3 restored together" in plots.causal_tracing(table, part="ffn").get_xlabel()
    assert plots.causal_tracing(table, part="state").get_xlabel() == "layer"
    assert "3 restored together" in plots.tracing_by_layer(table).get_xlabel()


def test_unknown_part_is_refused():
    with pytest.raises(ValueError, match="no part 'mlp' in the table; it has state, ffn"):
        plots.causal_tracing(traced(), part="mlp")


# Lines


def test_lines_have_a_colour_per_part_and_a_style_per_token():
    ax = plots.tracing_by_layer(traced())
    lines = {line.get_label(): line for line in ax.lines if len(line.get_xdata()) == 6}
    assert len(lines) == 6
    for part, label in (("state", "layer output"), ("ffn", "FFN"), ("attention", "attention")):
        at_end, at_subject = lines[f"{label}, last prompt"], lines[f"{label}, last subject"]
        assert to_hex(at_end.get_color()) == to_hex(at_subject.get_color())
        assert to_hex(at_end.get_color()) == PART_COLOURS[part].lower()
        assert at_end.get_linestyle() != at_subject.get_linestyle()
        assert at_end.get_ydata()[-1] == pytest.approx(EFFECTS[part])
        assert at_subject.get_ydata()[-1] == pytest.approx(EFFECTS[part] / 2)


def test_total_effect_is_drawn_as_a_level_line():
    ax = plots.tracing_by_layer(traced())
    assert any(np.allclose(line.get_ydata(), 0.8) for line in ax.lines)


@pytest.mark.parametrize("draw", [plots.causal_tracing, plots.tracing_by_layer])
def test_two_hosts_are_not_mixed(draw):
    with pytest.raises(ValueError, match="one figure shows one host, the table has tiny, other"):
        draw(pd.concat([traced(), traced(host="other")]))


def test_several_seeds_of_a_fact_count_once():
    table = pd.concat([traced(facts=1, seeds=(1, 2, 3)), traced(facts=2).assign(effect=0.0)])
    table["fact"] = table["fact"].where(table["effect"] > 0, "a fact that nothing brings back")
    ax = plots.tracing_by_layer(table[table["layer"] == 5], tokens=("last prompt",))
    state = next(line for line in ax.lines if line.get_label() == "layer output, last prompt")
    assert state.get_ydata()[0] == pytest.approx(EFFECTS["state"] / 2)


def test_lines_are_shaded_with_the_interval_over_facts():
    table = traced(facts=2)
    table.loc[table["fact"] == "fact 1", "effect"] = 0.0
    ax = plots.tracing_by_layer(table)
    assert len(ax.collections) == 6
    heights = ax.collections[0].get_paths()[0].vertices[:, 1]
    assert heights.max() == pytest.approx(EFFECTS["state"])
    assert heights.min() == pytest.approx(0)


def test_legend_names_parts_tokens_and_the_total():
    ax = plots.tracing_by_layer(traced(), tokens=("last subject",))
    assert [text.get_text() for text in ax.get_legend().get_texts()] == [
        *["layer output", "FFN", "attention", "at the last subject", "total effect"]
    ]


@pytest.mark.parametrize("tokens", [("first after",), ("last prompt",) * 4 + ("last subject",)])
def test_tokens_that_cannot_be_drawn_are_refused(tokens):
    with pytest.raises(ValueError, match="up to 4 of 'last subject', 'last prompt', not"):
        plots.tracing_by_layer(traced(), tokens=tokens)


def test_drawing_on_given_axes_returns_them():
    _, (left, right) = plt.subplots(1, 2)
    assert plots.causal_tracing(traced(), left) is left
    assert plots.tracing_by_layer(traced(), right) is right
