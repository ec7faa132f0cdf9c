"""Figures of routes, orders and drift say what they show; never pixels."""

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import QuadMesh
from matplotlib.colors import to_hex
from matplotlib.patches import Rectangle

from lemoe_lab import plots, probes
from lemoe_lab.plots.order import POINT_HEIGHT, side_by_side


@pytest.fixture(autouse=True)
def closed_figures():
    yield
    plt.close("all")


def routes(editor="MoE adaptor", order="random", seeds=(1, 2), batches=3, experts=4, lost=0):
    """Every edit of batch b learned by expert (b - 1) % experts; the first ``lost`` wander."""
    return pd.DataFrame(
        [
            {"editor": editor, "order": order, "seed": seed, "step": step, "batch": batch}
            | {"edit": f"{batch}-{i}", "group": "", "prompt": 0, "gate": 1.0, "similarity": 1.0}
            | {"trained_expert": (batch - 1) % experts, "experts": experts}
            | {"expert": experts - 1 if i < lost and step > batch else (batch - 1) % experts}
            | {"frozen": False, "superseded": False}
            for seed in seeds
            for step in range(1, batches + 1)
            for batch in range(1, step + 1)
            for i in range(4)
        ]
    )


def orders(values=(0.4, 0.5, 0.9), editor="MoE adaptor", kinds=("random", "k-means", "mixed")):
    return pd.DataFrame(
        [
            {"editor": editor, "order": kinds[i % len(kinds)], "seed": 0, "run": i}
            | {"scorer": "generated", "edits": 300, "batches": 10}
            | {"reliability": value, "within": i / 10, "between": -i / 10}
            for i, value in enumerate(values)
        ]
    )


def drifting(editor="MoE adaptor", seeds=(1, 2)):
    rows = [
        {
            "step": step,
            "batch": batch,
            "quantity": quantity,
            "n": 100,
            "value": 0.1 * (step - batch),
        }
        for step in (1, 2, 3)
        for quantity, batches in (("kl", [0]), ("weight_change", range(1, step + 1)))
        for batch in batches
    ]
    runs = [{"editor": editor, "order": "random", "seed": seed} for seed in seeds]
    return pd.DataFrame([run | row for run in runs for row in rows])


def texts(ax):
    return [text.get_text() for text in ax.texts]


def caption_of(ax):
    (text,) = [text for text in ax.texts if text.get_gid() == "caption"]
    return " ".join(text.get_text().split())


def cells_of(ax):
    (mesh,) = [artist for artist in ax.collections if isinstance(artist, QuadMesh)]
    return mesh


def legend_of(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


# Routing heatmap


def test_heatmap_shows_shares_of_each_row_on_named_axes():
    ax = plots.routing_heatmap(routes(lost=1))
    image = cells_of(ax)
    shares = image.get_array()
    assert shares[0].tolist() == [0.75, 0, 0, 0.25]
    assert image.get_cmap().name == "cividis" and image.get_clim() == (0, 1)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("expert at inference", "expert at training")
    assert ax.get_title(loc="left") == "MoE adaptor (random)"
    assert image.colorbar.ax.get_ylabel() == "share of prompts"
    assert "0.75" in texts(ax)


def test_heatmap_leaves_the_row_of_an_idle_expert_empty():
    assert cells_of(plots.routing_heatmap(routes())).get_array().mask[3].all()


def test_heatmap_frames_the_diagonal():
    ax = plots.routing_heatmap(routes())
    frames = [p for p in ax.patches if isinstance(p, Rectangle) and to_hex(p.get_ec()) == "#ffffff"]
    assert [round(p.get_x()) for p in frames] == [round(p.get_y()) for p in frames]
    assert len(frames) == 4


def test_heatmap_gives_bypassed_prompts_a_column_of_their_own():
    frame = routes()
    assert "bypass" not in [
        label.get_text() for label in plots.routing_heatmap(frame).get_xticklabels()
    ]
    frame.loc[(frame["edit"] == "1-0") & (frame["step"] == 3), "expert"] = -1
    ax = plots.routing_heatmap(frame)
    shares = cells_of(ax).get_array()
    assert shares.shape == (4, 5) and shares[0, 4] == 0.25
    assert [label.get_text() for label in ax.get_xticklabels()][-1] == "bypass"


def test_heatmaps_side_by_side_can_share_a_colour_bar():
    ax = plots.routing_heatmap(routes(), colour_bar=False)
    assert cells_of(ax).colorbar is None


def test_heatmap_refuses_to_mix_editors():
    with pytest.raises(ValueError, match="one editor"):
        plots.routing_heatmap(pd.concat([routes(), routes("LEMoE scoped")]))


def test_heatmap_of_many_experts_has_no_crowded_numbers():
    ax = plots.routing_heatmap(routes(batches=30, experts=30, seeds=[1]))
    assert len(texts(ax)) == 1  # the caption
    assert len(ax.get_xticks()) < 30


def test_heatmap_caption_says_which_prompts_it_shows():
    text = caption_of(plots.routing_heatmap(routes()))
    assert "n = 12 edits in 3 batches per seed; seeds 1, 2; routes of own prompts" in text
    assert "all seeds together" in text
    strong = routes().assign(group="strong")
    assert "strong rewordings" in caption_of(plots.routing_heatmap(strong, group="strong"))


# Consistency over time


def test_consistency_is_a_line_per_method_with_a_band_over_seeds():
    ax = plots.routing_consistency(pd.concat([routes(lost=2), routes("LEMoE scoped")]))
    moe, scoped = ax.lines
    assert list(moe.get_xdata()) == [1, 2, 3]
    assert moe.get_ydata().tolist() == pytest.approx([1, 0.75, 4 / 6])
    assert scoped.get_ydata().tolist() == [1, 1, 1]
    assert to_hex(moe.get_color()) == plots.method_colour("MoE adaptor").lower()
    assert len(ax.collections) == 2
    assert "lowest to highest seed" in caption_of(ax)


def test_batch_mode_is_a_level_line_of_the_same_colour_beside_lifelong_runs():
    both = pd.concat([routes(), routes(order="all at once", batches=1)])
    lifelong, merged = plots.routing_consistency(both).lines
    assert list(merged.get_xdata()) == [0, 1]  # from edge to edge of the axes
    assert lifelong.get_color() == merged.get_color()
    assert lifelong.get_linestyle() != merged.get_linestyle()


def test_batch_mode_alone_is_a_point():
    (line,) = plots.routing_consistency(routes(batches=1)).lines
    assert list(line.get_xdata()) == [1]


# Orders


def test_violin_shows_every_order_as_a_point_and_the_spread():
    ax = plots.order_violin(orders())
    points = sorted(line.get_ydata()[0] for line in ax.lines)
    assert points == [0.4, 0.5, 0.9]
    assert "spread\n0.50" in texts(ax)
    assert [label.get_text() for label in ax.get_xticklabels()] == ["MoE adaptor"]
    assert to_hex(ax.lines[0].get_color()) == plots.method_colour("MoE adaptor").lower()


def test_violin_ends_at_the_best_and_the_worst_order_in_the_colour_of_the_method():
    ax = plots.order_violin(orders())
    body = ax.collections[0]
    heights = body.get_paths()[0].vertices[:, 1]
    assert (heights.min(), heights.max()) == pytest.approx((0.4, 0.9))
    assert to_hex(body.get_facecolor()) == plots.method_colour("MoE adaptor").lower()


def test_violin_of_equal_values_is_a_row_of_points_and_no_body():
    with_body = plots.order_violin(orders())
    flat = plots.order_violin(orders([1.0] * 20))
    assert len(with_body.collections) == len(flat.collections) + 1
    places = [line.get_xdata()[0] for line in flat.lines]
    assert len(set(places)) == 20 and max(np.abs(places)) < 0.5
    assert "spread\n0.00" in texts(flat)


@pytest.mark.parametrize("count", [1, 2, 4])
def test_violin_accepts_few_orders(count):
    ax = plots.order_violin(orders(np.linspace(0.2, 0.8, count)))
    assert len(ax.lines) == count
    ax.figure.canvas.draw()


def test_points_at_one_height_lie_side_by_side_and_others_in_the_middle():
    offsets = side_by_side(np.array([0.5, 0.5, 0.9]))
    assert offsets[0] != offsets[1] and offsets[2] == 0
    assert (side_by_side(np.array([0.0, 2 * POINT_HEIGHT, 4 * POINT_HEIGHT])) == 0).all()


def test_violin_legend_names_the_kinds_of_order():
    assert set(legend_of(plots.order_violin(orders()))) == {"random", "k-means", "mixed"}
    assert plots.order_violin(orders(kinds=["random"])).get_legend() is None


def test_violin_of_another_column():
    frame = orders().assign(generality_strong=0.5)
    assert "strong" in plots.order_violin(frame, value="generality_strong").get_ylabel()
    with pytest.raises(ValueError, match=r"no 'locality_far'.*probes\.order"):
        plots.order_violin(frame, value="locality_far")


def test_order_caption_counts_the_runs():
    for draw in (plots.order_violin, plots.similarity_scatter):
        text = caption_of(draw(orders()))
        assert "n = 3 runs per editor, each 300 edits in 10 batches" in text
        assert "scorer: generated (exact match)" in text


def test_scatter_has_a_point_per_run_and_rho_in_its_legend():
    frame = pd.concat([orders(np.linspace(0, 1, 8)), orders([1.0] * 8, "LEMoE scoped")])
    ax = plots.similarity_scatter(frame)
    assert len(ax.lines) == 16
    first, second = legend_of(ax)[:2]
    assert first.startswith("MoE adaptor:") and "ρ = 1.00 [1.00, 1.00]" in first
    assert "undefined" in second


def test_scatter_gives_each_kind_of_order_its_marker():
    ax = plots.similarity_scatter(orders())
    assert len({line.get_marker() for line in ax.lines}) == 3


def test_scatter_without_similarities_says_what_is_missing():
    with pytest.raises(ValueError, match="no 'within'"):
        plots.similarity_scatter(orders().drop(columns="within"))


# Tables that were made before


def test_figures_draw_the_tables_they_are_given():
    """Nothing is computed again that was computed once, and perhaps stored."""
    frame, routed = orders(), routes()
    summary = probes.order_summary(frame).assign(spread=0.25)
    assert "spread\n0.25" in texts(plots.order_violin(frame, summary=summary))
    correlation = probes.similarity_correlation(frame).assign(rho=0.3, low=0.1, high=0.5)
    ax = plots.similarity_scatter(frame, correlation=correlation)
    assert "ρ = 0.30 [0.10, 0.50]" in legend_of(ax)[0]
    matrix = probes.routing_matrix(routed) * 0.5
    assert cells_of(plots.routing_heatmap(routed, matrix=matrix)).get_array().max() == 0.5
    consistency = probes.routing_consistency(routed).assign(value=0.75)
    (line,) = plots.routing_consistency(routed, consistency=consistency).lines
    assert set(line.get_ydata()) == {0.75}


# Drift


def test_drift_draws_one_line_per_method():
    ax = plots.drift(pd.concat([drifting(), drifting("LEMoE scoped")]))
    labelled = [line for line in ax.lines if not line.get_label().startswith("_")]
    assert [line.get_label() for line in labelled] == ["MoE adaptor", "LEMoE scoped"]
    assert labelled[0].get_ydata().tolist() == pytest.approx([0.1, 0.2, 0.3])
    assert "nats per token" in ax.get_ylabel()
    assert "n = 100 tokens of neutral text, 3 batches; seeds 1, 2" in caption_of(ax)


def test_drift_of_batches_shows_each_and_the_mean_of_those_learned_before():
    ax = plots.drift(drifting(), quantity="weight_change")
    (mean,) = [line for line in ax.lines if line.get_label() == "MoE adaptor"]
    thin = [line for line in ax.lines if line.get_label() == "_batch"]
    assert list(mean.get_xdata()) == [2, 3]
    assert mean.get_ydata().tolist() == pytest.approx([0.1, 0.15])
    assert len(thin) == 3


def test_drift_in_batch_mode_is_a_level_line_where_there_is_anything_to_show():
    merged = drifting().assign(order="all at once")
    both = pd.concat([drifting(), merged[merged["step"] == 1]])
    level = plots.drift(both).lines[-1]
    assert (level.get_label(), list(level.get_xdata())) == ("MoE adaptor (all at once)", [0, 1])
    assert legend_of(plots.drift(both, quantity="weight_change")) == ["MoE adaptor (random)"]


def test_drift_of_an_unknown_quantity_names_the_known_ones():
    with pytest.raises(ValueError, match="'speed'.*kl, weight_change"):
        plots.drift(drifting(), quantity="speed")


# All of them

DRAWINGS = [
    (plots.routing_heatmap, routes),
    (plots.routing_consistency, routes),
    (plots.order_violin, orders),
    (plots.similarity_scatter, orders),
    (plots.drift, drifting),
]


@pytest.mark.parametrize(("draw", "frame"), DRAWINGS)
def test_plots_draw_on_the_axes_they_are_given(draw, frame):
    figure, ax = plt.subplots()
    count = len(plt.get_fignums())
    assert draw(frame(), ax) is ax
    assert len(plt.get_fignums()) == count
    figure.canvas.draw()


@pytest.mark.parametrize(("draw", "frame"), DRAWINGS)
def test_no_text_is_smaller_than_ten_points(draw, frame):
    sizes = [text.get_fontsize() for text in draw(frame()).findobj(matplotlib.text.Text)]
    assert min(sizes) >= 10


@pytest.mark.parametrize(("draw", "frame"), DRAWINGS)
def test_plots_leave_the_global_settings_alone(draw, frame):
    before = dict(matplotlib.rcParams)
    draw(frame())
    assert dict(matplotlib.rcParams) == before
