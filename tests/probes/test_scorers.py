"""Teacher-forced beside generated scores: the probe, the ranking and the figure."""

from __future__ import annotations

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import pandas as pd
import pytest
from matplotlib.colors import to_hex

from lemoe_lab import metrics, plots, probes


@pytest.fixture(autouse=True)
def closed_figures():
    yield
    plt.close("all")


def measured(editor: str, fed: float, said: float, seed: int = 1) -> pd.DataFrame:
    """One edit of one run: reliability by both scorers, everything else at 1."""
    rows = []
    for scorer, reliability in (("teacher_forced", fed), ("generated", said)):
        for metric, group, value in (
            ("reliability", "", reliability),
            ("generality", "light", 1.0),
            ("locality", "near", 1.0),
        ):
            rows.append((1, 1, "a", metric, group, scorer, value))
    return pd.DataFrame(rows, columns=metrics.COLUMNS).assign(editor=editor, seed=seed)


@pytest.fixture
def frame() -> pd.DataFrame:
    tables = [
        measured("ROME", 0.9, 0.2),
        measured("GRACE", 0.8, 0.8),
        measured("GRACE", 0.6, 0.4, seed=2),
    ]
    return probes.both_scorers(pd.concat(tables, ignore_index=True))


def test_a_row_for_every_run_and_score_with_both_scorers(frame):
    assert len(frame) == 3 * 4
    rome = frame[(frame["editor"] == "ROME") & (frame["score"] == "reliability")].iloc[0]
    assert (rome["teacher_forced"], rome["generated"], rome["edits"]) == (0.9, 0.2, 1)
    average = frame[(frame["editor"] == "ROME") & (frame["score"] == "average")].iloc[0]
    assert average["generated"] == pytest.approx((0.2 + 1 + 1) / 3)


def test_only_the_last_step_counts():
    later = measured("ROME", 0.5, 0.5).assign(step=2, batch=1)
    other = measured("ROME", 0.5, 0.1).assign(step=2, batch=2, edit="b")
    table = probes.both_scorers(pd.concat([measured("ROME", 1.0, 1.0), later, other]))
    row = table[table["score"] == "reliability"].iloc[0]
    assert (row["generated"], row["edits"]) == (pytest.approx(0.3), 2)


def test_a_run_without_one_of_the_scorers_is_an_error():
    half = measured("ROME", 0.9, 0.2).query("scorer == 'generated'")
    with pytest.raises(ValueError, match="teacher_forced"):
        probes.both_scorers(half)


def test_ranking_orders_editors_by_their_means_and_ties_share_a_place(frame):
    rows = frame[frame["score"] == "reliability"]
    table = probes.ranking(rows, ["teacher_forced", "generated"]).set_index("editor")
    assert table.loc["GRACE", "generated"] == pytest.approx(0.6)
    assert table["teacher_forced_rank"].to_dict() == {"ROME": 1, "GRACE": 2}
    assert table["generated_rank"].to_dict() == {"ROME": 2, "GRACE": 1}
    tied = probes.ranking(frame[frame["score"] == "locality"], ["generated"])
    assert tied["generated_rank"].tolist() == [1, 1]


def test_pairs_have_a_line_per_editor_from_the_first_score_to_the_second(frame):
    rows = frame[frame["score"] == "reliability"]
    ax = plots.score_pairs(rows, "teacher_forced", "generated", score="reliability")
    names = [label.get_text() for label in ax.get_yticklabels()]
    assert names == ["GRACE", "ROME"]
    lines = {
        to_hex(line.get_color()).upper(): line for line in ax.lines if len(line.get_xdata()) == 2
    }
    assert list(lines[plots.METHOD_COLOURS["ROME"]].get_xdata()) == [0.9, 0.2]
    assert lines[plots.METHOD_COLOURS["GRACE"]].get_xdata()[1] == pytest.approx(0.6)
    assert ax.get_xlabel() == "reliability"
    (text,) = [text.get_text() for text in ax.texts if text.get_gid() == "caption"]
    assert "seeds 1, 2" in text and "teacher-forced" in text and "generated" in text


def test_pairs_name_a_score_that_is_missing(frame):
    with pytest.raises(ValueError, match="immediate"):
        plots.score_pairs(frame, "immediate", "generated")
