"""Figures say what they show: labels, bars, captions, colours; never pixels."""

import subprocess
import sys

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import pandas as pd
import pytest
from matplotlib.collections import QuadMesh
from matplotlib.colors import to_hex

from lemoe_lab import plots

EDITORS = ("LEMoE scoped", "LEMoE KV anchor, literal", "MoE adaptor")


@pytest.fixture(autouse=True)
def closed_figures():
    yield
    plt.close("all")


def runs(editors=EDITORS, seeds=(1, 2, 3)):
    return [
        {"editor": editor, "order": "random", "seed": seed, "scorer": "generated"}
        for editor in editors
        for seed in seeds
    ]


@pytest.fixture
def frame():
    """Batches 1..4 of two edits; the later editors in the list forget more, seeds differ."""
    return pd.DataFrame(
        [
            run
            | {"batch": batch, "edit": f"{batch}-{i}", "metric": metric, "group": group}
            | {"immediate": 1.0, "final": 1 - 0.3 * place - 0.02 * run["seed"] * (place > 0)}
            | {"superseded": False}
            for place, editor in enumerate(EDITORS)
            for run in runs([editor])
            for batch in range(1, 5)
            for i in range(2)
            for metric, group in (("reliability", ""), ("generality", "strong"))
        ]
    )


@pytest.fixture
def matrix():
    return pd.DataFrame(
        [
            run | {"measured_after": step, "batch": batch, "edits": 2, "value": batch / step}
            for run in runs(["MoE adaptor"], [1])
            for step in range(1, 5)
            for batch in range(1, step + 1)
        ]
    )


@pytest.fixture
def local():
    return pd.DataFrame(
        [
            run | {"batch": 1, "edit": "a", "group": group, "value": 0.5}
            for run in runs()
            for group in ("far", "near", "same_subject", "text")
        ]
    )


def texts(ax):
    return [text.get_text() for text in ax.texts]


def cells_of(ax):
    (mesh,) = [artist for artist in ax.collections if isinstance(artist, QuadMesh)]
    return mesh


def caption_of(ax):
    (text,) = [text for text in ax.texts if text.get_gid() == "caption"]
    return " ".join(text.get_text().split())


def test_immediate_vs_final_draws_two_labelled_bars_per_editor(frame):
    ax = plots.immediate_vs_final(frame)
    assert len(ax.patches) == 2 * len(EDITORS)
    assert [label.get_text() for label in ax.get_yticklabels()] == list(EDITORS)
    assert texts(ax)[:4] == ["immediate  1.00", "final  1.00", "immediate  1.00", "final  0.66"]
    assert ax.get_xlabel() == "reliability"


def test_whiskers_appear_only_where_seeds_differ(frame):
    assert len(plots.immediate_vs_final(frame).containers) == 2 * len(EDITORS) + 2
    single = plots.immediate_vs_final(frame[frame["seed"] == 1])
    assert len(single.containers) == 2 * len(EDITORS)


def test_immediate_vs_final_shows_another_metric(frame):
    assert "strong" in plots.immediate_vs_final(frame, None, "generality", "strong").get_xlabel()
    with pytest.raises(ValueError, match="generality strong"):
        plots.immediate_vs_final(frame, metric="locality")


def test_orders_of_one_editor_get_their_own_bars(frame):
    frame = frame[frame["editor"] == "MoE adaptor"]
    both = pd.concat([frame, frame.assign(order="k-means")])
    labels = [label.get_text() for label in plots.immediate_vs_final(both).get_yticklabels()]
    assert labels == ["MoE adaptor (random)", "MoE adaptor (k-means)"]


def test_forgetting_matrix_is_lower_triangular_with_labelled_axes(matrix):
    ax = plots.forgetting_matrix(matrix)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("learned in batch", "measured after batch")
    image = cells_of(ax)
    shown = image.get_array()
    assert shown.shape == (4, 4) and shown.mask[0, 1:].all() and not shown.mask[3].any()
    assert shown[3, 0] == 0.25
    assert image.get_cmap().name == "cividis" and image.get_clim() == (0, 1)
    assert image.colorbar.ax.get_ylabel() == "reliability"
    assert ax.get_title(loc="left") == "MoE adaptor"
    assert "0.25" in texts(ax)


def test_forgetting_matrix_refuses_to_mix_editors(matrix):
    with pytest.raises(ValueError, match="one editor"):
        plots.forgetting_matrix(pd.concat([matrix, matrix.assign(editor="ROME")]))


def test_locality_has_a_bar_per_group_and_editor(local):
    ax = plots.locality(local)
    assert len(ax.patches) == 4 * len(EDITORS)
    labels = [label.get_text() for label in ax.get_xticklabels()]
    assert labels == ["same subject", "near", "far", "text\n(perplexity ratio)"]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == list(EDITORS)


def test_locality_leaves_out_groups_that_were_not_measured(local):
    ax = plots.locality(local[local["group"] == "near"])
    assert len(ax.patches) == len(EDITORS)


def test_reliability_over_batches_draws_both_phases(frame):
    ax = plots.reliability_over_batches(frame)
    assert [line.get_label() for line in ax.lines][:2] == [
        "LEMoE scoped, immediate",
        "LEMoE scoped, final",
    ]
    assert len(ax.lines) == 2 * len(EDITORS)
    assert list(ax.lines[0].get_xdata()) == [1, 2, 3, 4]
    assert "final" in [text.get_text() for text in ax.get_legend().get_texts()]


def test_a_band_reaches_from_the_lowest_to_the_highest_seed(frame):
    ax = plots.reliability_over_batches(frame[frame["editor"] == "MoE adaptor"])
    (band,) = ax.collections
    heights = band.get_paths()[0].vertices[:, 1]
    by_seed = frame[frame["editor"] == "MoE adaptor"].groupby("seed")["final"].mean()
    assert (heights.min(), heights.max()) == pytest.approx((by_seed.min(), by_seed.max()))


def test_rings_of_immediate_are_hollow_in_the_colour_of_the_method(frame):
    immediate = plots.reliability_over_batches(frame).lines[0]
    assert immediate.get_markerfacecolor() == "none"
    assert to_hex(immediate.get_markeredgecolor()) == plots.method_colour(EDITORS[0]).lower()


@pytest.mark.parametrize("library", ["seaborn", "matplotlib", "ipywidgets", "sklearn"])
def test_the_library_is_imported_without_what_only_some_calls_need(library):
    code = f"import sys, lemoe_lab; print({library!r} in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_plots_and_widgets_are_there_without_an_import_of_their_own():
    code = "import lemoe_lab as ll; print(ll.plots.save.__name__, ll.widgets.__name__, dir(ll))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("save lemoe_lab.widgets")
    assert "'plots'" in done.stdout and "'widgets'" in done.stdout


def test_a_method_has_the_same_colour_in_every_figure(frame, local):
    bars = plots.immediate_vs_final(frame).patches
    lines = plots.reliability_over_batches(frame).lines
    clusters = plots.locality(local).patches
    for place, editor in enumerate(EDITORS):
        colour = plots.method_colour(editor).lower()
        assert to_hex(bars[2 * place + 1].get_facecolor()) == colour
        assert to_hex(lines[2 * place + 1].get_color()) == colour
        assert to_hex(clusters[4 * place].get_facecolor()) == colour


def test_known_methods_have_different_colours():
    assert len(set(plots.METHOD_COLOURS.values())) == len(plots.METHOD_COLOURS)


def test_an_unknown_method_gets_the_same_colour_in_every_process():
    names = ["something new", "a method of mine", "another"]
    assert [plots.method_colour(name) for name in names] == ["#44AA99", "#88CCEE", "#CC6677"]
    assert {plots.method_colour(name) for name in names} <= set(plots.OTHER_COLOURS)


@pytest.mark.parametrize("draw", [plots.immediate_vs_final, plots.reliability_over_batches])
def test_caption_states_n_seeds_and_scorer(draw, frame):
    text = caption_of(draw(frame))
    assert "n = 8 edits in 4 batches per seed" in text
    assert "seeds 1, 2, 3" in text and "scorer: generated (exact match)" in text
    assert "lowest" in text


def test_caption_of_a_single_seed_speaks_of_no_interval(matrix):
    assert caption_of(plots.forgetting_matrix(matrix)) == (
        "n = 8 edits in 4 batches; seed 1; scorer: generated (exact match)"
    )


def test_caption_names_teacher_forcing_and_neutral_text_does_not_blur_it(local):
    forced = local.assign(scorer="teacher_forced")
    assert "scorer: teacher-forced tokens" in caption_of(plots.locality(forced))
    mixed = local.assign(scorer=local["scorer"].where(local["group"] != "text", "teacher_forced"))
    assert caption_of(plots.locality(mixed)) == caption_of(plots.locality(local))


def test_caption_reports_superseded_edits(frame):
    frame.loc[frame["edit"] == "1-0", "superseded"] = True
    assert "superseded edits (1)" in caption_of(plots.immediate_vs_final(frame))


def test_caption_of_unequal_runs_gives_the_range(frame):
    frame = frame[(frame["seed"] == 1) | (frame["batch"] < 3)]
    assert "n = 4 to 8 edits in 2 to 4 batches" in caption_of(plots.immediate_vs_final(frame))


def test_a_second_caption_replaces_the_first(frame):
    ax = plots.immediate_vs_final(frame)
    plots.caption(ax, frame[frame["seed"] == 2])
    assert "seed 2" in caption_of(ax)


def test_plots_draw_on_the_axes_they_are_given(frame, matrix, local):
    figure, axes = plt.subplots(2, 2)
    count = len(plt.get_fignums())
    drawings = [plots.immediate_vs_final, plots.reliability_over_batches]
    assert [draw(frame, ax) for draw, ax in zip(drawings, axes[0], strict=True)] == list(axes[0])
    assert plots.forgetting_matrix(matrix, axes[1, 0]) is axes[1, 0]
    assert plots.locality(local, axes[1, 1]) is axes[1, 1]
    assert len(plt.get_fignums()) == count
    figure.canvas.draw()


def test_plots_leave_the_global_settings_alone(frame):
    before = dict(matplotlib.rcParams)
    plots.immediate_vs_final(frame)
    assert dict(matplotlib.rcParams) == before


def test_no_text_is_smaller_than_ten_points(frame, matrix, local):
    for ax in (
        plots.immediate_vs_final(frame),
        plots.reliability_over_batches(frame),
        plots.forgetting_matrix(matrix),
        plots.locality(local),
    ):
        sizes = [text.get_fontsize() for text in ax.findobj(matplotlib.text.Text)]
        assert min(sizes) >= 10


def test_an_empty_frame_is_an_error(local):
    with pytest.raises(ValueError, match="no rows"):
        plots.locality(local.iloc[:0])


def test_saving_twice_gives_the_same_bytes(frame, tmp_path):
    first = plots.save(plots.immediate_vs_final(frame), "figure", tmp_path / "one")
    second = plots.save(plots.immediate_vs_final(frame).figure, "figure", tmp_path / "two")
    assert [path.name for path in first] == ["figure.png", "figure.svg"]
    for one, two in zip(first, second, strict=True):
        assert one.read_bytes() == two.read_bytes()


def test_figures_go_where_the_environment_says(frame, tmp_path, monkeypatch):
    monkeypatch.setenv("LEMOE_LAB_FIGURES", str(tmp_path / "elsewhere"))
    png, svg = plots.save(plots.immediate_vs_final(frame), "figure")
    assert png.parent == svg.parent == tmp_path / "elsewhere"
    assert png.exists() and svg.exists()
