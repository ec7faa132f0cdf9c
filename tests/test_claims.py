"""Sentences of the notebooks that compare hold in the tables that the notebooks show.

A claim is a notebook, the beginning of a sentence in it, and what the sentence says about the
tables. Whoever rewords the sentence meets the claim; whoever runs the notebook anew, too.
"""

from collections.abc import Callable
from pathlib import Path

import nbformat
import pandas as pd
import pytest
from bs4 import BeautifulSoup, Tag
from nbformat import NotebookNode

NOTEBOOKS = Path(__file__).parent.parent / "notebooks"
SCOPED, ANCHOR, LITERAL = "LEMoE scoped", "LEMoE KV anchor", "LEMoE KV anchor, literal"
REHEARSED, SHARED, ONE = "LEMoE KV anchor, rehearsed", "MoE adaptor", "one expert"
RUN = ["editor", "order"]
CLAIMS = []


class Shown:
    """The tables that a notebook shows, from the top down."""

    def __init__(self, notebook: NotebookNode) -> None:
        outputs = [o for cell in notebook.cells for o in cell.get("outputs", [])]
        pages = [o.get("data", {}).get("text/html", "") for o in outputs]
        parsed = [BeautifulSoup(page, "html.parser") for page in pages]
        self.tables = [read(table) for page in parsed for table in page("table")]

    def with_columns(self, *columns: str) -> pd.DataFrame:
        """The first table that has these columns."""
        for table in self.tables:
            if set(columns) <= set(table):
                return table
        pytest.fail(f"no table shows {', '.join(columns)}; run `make figures`")


def read(table: Tag) -> pd.DataFrame:
    """A table as pandas shows it: index and columns of any depth, repeated labels left out."""
    head = [
        [cell.text for cell in row(["th", "td"]) for _ in range(int(cell.get("colspan", 1)))]
        for row in table.thead("tr")
    ]
    rows = []
    for row in table.tbody("tr"):
        cells = [cell.text for cell in row(["th", "td"])]
        repeated = len(head[0]) - len(cells)
        rows.append([*(rows[-1][:repeated] if repeated else []), *cells])
    labels = [[line[i] for line in head if line[i]] for i in range(len(head[0]))]
    depth = len(table.tbody.tr("th"))
    names = [" ".join(label[-1:] if i < depth else label) for i, label in enumerate(labels)]
    return pd.DataFrame(rows, columns=names).apply(numeric)


def numeric(column: pd.Series) -> pd.Series:
    """Numbers where all of a column are."""
    try:
        return pd.to_numeric(column.replace("NaN", None))
    except ValueError:
        return column


def claim(notebook: str, sentence: str) -> Callable:
    """Register a check of the tables of a notebook under the sentence that it is about."""

    def register(check: Callable[[Shown], None]) -> Callable:
        CLAIMS.append(pytest.param(notebook, sentence, check, id=check.__name__))
        return check

    return register


def of(table: pd.DataFrame, editor: str, order: str | None = None) -> pd.Series:
    """The one row of an editor, in an order if it has several."""
    chosen = table[(table["editor"] == editor) & (order is None or table["order"] == order)]
    assert len(chosen) == 1, f"{editor} has {len(chosen)} rows"
    return chosen.iloc[0]


@claim("01_immediate_vs_final", "Right after a batch all know it but the literal reading")
def only_the_literal_reading_fails_to_learn(shown):
    table = shown.with_columns("immediate", "average_forgetting")
    literal = table["editor"] == LITERAL
    assert table[~literal]["immediate"].min() > 0.98
    assert table[literal]["immediate"].max() < 0.9


@claim("01_immediate_vs_final", "Who goes on training shared weights loses more than half")
def shared_weights_keep_less_than_half_and_the_literal_reading_less_still(shown):
    table = shown.with_columns("immediate", "average_forgetting")
    kept = {
        name: of(table, name, order)["final"] / of(table, name, order)["immediate"]
        for name, order in ((SHARED, "random"), (ONE, "random"), (LITERAL, "k-means"))
    }
    assert kept[LITERAL] < min(kept[SHARED], kept[ONE])
    assert max(kept[SHARED], kept[ONE]) < 0.5


@claim("01_immediate_vs_final", "Learning all edits at once, in batch mode, there is nothing")
def batch_mode_forgets_nothing(shown):
    once = of(shown.with_columns("immediate", "average_forgetting"), SHARED, "all at once")
    assert once["immediate"] == once["final"]


@claim("01_immediate_vs_final", "With the shared experts more is left of the newer batches")
def older_batches_of_the_shared_experts_are_known_less(shown):
    left = of(shown.with_columns("editor", "10"), SHARED).drop("editor").astype(float)
    assert left.rank().corr(pd.Series(range(len(left)), left.index, dtype=float)) > 0.9


@claim(
    "01_immediate_vs_final", "The literal reading ends with a few of its late batches nearly whole"
)
def the_literal_reading_ends_with_a_few_late_batches(shown):
    left = of(shown.with_columns("editor", "10"), LITERAL).drop("editor").astype(float)
    whole = left > 0.8
    assert 1 <= whole.sum() <= 3 and not whole[:5].any()
    assert left[~whole].max() < 0.2


@claim("02_routing_consistency", "the order of the modes is as in the paper")
def batch_mode_routes_more_consistently(shown):
    own, strong = (t for t in shown.tables if {"consistency", "low"} <= set(t))
    for table in (own, strong):
        assert of(table, SHARED, "all at once")["low"] > of(table, SHARED, "random")["high"]


@claim("02_routing_consistency", "rerouting explains only")
def more_is_overwritten_than_rerouted(shown):
    lost = of(shown.with_columns("rerouted", "overwritten"), SHARED, "random")
    assert lost["rerouted"] < lost["overwritten"]


@claim("02_routing_consistency", "What the literal anchor loses it loses by rerouting")
def the_literal_anchor_loses_by_rerouting(shown):
    assert of(shown.with_columns("rerouted", "overwritten"), LITERAL)["rerouted"] > 0.99


@claim("03_order_sensitivity", "the order matters to the shared experts")
def only_the_shared_experts_depend_on_the_order(shown):
    spread = shown.with_columns("spread").set_index("editor")["spread"]
    assert spread[SHARED] > 0.1 > spread.drop(SHARED).max()


@claim("03_order_sensitivity", "and the interval of rho holds zero")
def similarity_within_batches_is_not_correlated_with_the_end(shown):
    tables = [t for t in shown.tables if {"rho", "low", "high"} <= set(t)]
    for table in tables:
        within = of(table[table["similarity"] == "within"], SHARED)
        assert within["low"] < 0 < within["high"]


@claim("03_order_sensitivity", "K-means order is the best of all here")
def clustering_is_best_in_few_batches(shown):
    best = of(shown.with_columns("spread"), SHARED)["max"]
    assert of(shown.with_columns("within", "order"), SHARED, "k-means")["reliability"] == best


@claim("04_lemoe_ablation", "Insertion alone protects the experts and not the way to them")
def insertion_alone_ends_below_the_shared_experts(shown):
    table = shown.with_columns("reliability")
    assert of(table, LITERAL, "random")["reliability"] < of(table, SHARED)["reliability"]


@claim("04_lemoe_ablation", "order planning helps the literal router a little and the rehearsed")
def order_planning_helps(shown):
    table = shown.with_columns("reliability")
    for name, score in ((LITERAL, "reliability"), (REHEARSED, "generality_strong")):
        gain = of(table, name, "k-means")[score] - of(table, name, "random")[score]
        assert 0 < gain < 0.3


@claim("04_lemoe_ablation", "the bypass restores locality")
def the_bypass_restores_locality_and_lets_no_rewording_through(shown):
    table = shown.with_columns("reliability")
    whole, without = of(table, ANCHOR), of(table, REHEARSED, "k-means")
    assert whole["locality_near"] > 0.98 > 0.5 > without["locality_near"]
    assert whole["generality_strong"] < 0.02 < 0.5 < without["generality_strong"]


@claim("06_main_table", "By the average of the three scores GRACE comes next")
def grace_is_second(shown):
    table = shown.with_columns("generated average").set_index("editor")["generated average"]
    average = table.drop(f"{SCOPED}, oracle routing").str.split(" ").str[0].astype(float)
    assert list(average.sort_values(ascending=False).index[:2]) == [SCOPED, "GRACE"]


@claim("06_main_table", "Whoever writes into the host's weights loses edits, near prompts, or both")
def overwriting_weights_costs_edits_or_locality(shown):
    cost = shown.with_columns("changed_values")
    scores = shown.with_columns("generated reliability").set_index("editor")
    for editor in cost[cost["changed_values"] > 0]["editor"]:
        kept, spared = scores.loc[editor, ["generated reliability", "generated locality"]]
        assert min(float(kept.split()[0]), float(spared.split()[0])) < 0.9


@claim("06_main_table", "more than 200,000 values for each of these single edits")
def an_expert_takes_more_than_an_entry_of_a_codebook(shown):
    added = shown.with_columns("added_values").set_index("editor")["added_values"] / 100
    assert added[SCOPED] > 200_000 and 250 < added["GRACE"] < 350


@claim("08_honest_evaluation", "By either scorer LEMoE scoped leads and GRACE is second")
def both_scorers_agree_on_the_first_two(shown):
    table = shown.with_columns("teacher_forced_rank").set_index("editor")
    for rank in ("teacher_forced_rank", "generated_rank"):
        assert list(table[rank].sort_values().index[:2]) == [SCOPED, "GRACE"]


@claim("08_honest_evaluation", "WISE unmerged and LocFT over all edits change places, and so do")
def three_pairs_change_places(shown):
    table = shown.with_columns("teacher_forced_rank").set_index("editor")
    moved = table[table["teacher_forced_rank"] != table["generated_rank"]]
    pairs = ("WISE, unmerged", "LocFT replay"), ("AlphaEdit", ANCHOR), ("DEFER", "FineTune")
    assert set(moved.index) == {name for pair in pairs for name in pair}
    for one, other in pairs:
        assert moved["teacher_forced_rank"][one] == moved["generated_rank"][other]


@claim("08_honest_evaluation", "the widest gap is MEMIT's")
def far_flatters_memit_most(shown):
    table = shown.with_columns("far", "near").set_index("editor")
    assert (table["far"] - table["near"]).idxmax() == "MEMIT"


@claim("08_honest_evaluation", "generated, far fewer editors end near the best")
def generated_scores_lie_further_apart(shown):
    table = shown.with_columns("teacher_forced_rank")
    forced, generated = table["teacher_forced"], table["generated"]
    near = [(scores >= scores.max() - 0.2).sum() for scores in (forced, generated)]
    assert near[1] <= near[0] / 2


@pytest.mark.parametrize(("name", "sentence", "check"), CLAIMS)
def test_a_sentence_that_compares_holds_in_the_tables_shown(name, sentence, check):
    notebook = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
    prose = [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]

    assert any(sentence in text for text in prose), "reword the claim with its sentence"
    check(Shown(notebook))


def test_tables_are_read_as_pandas_shows_them():
    runs = pd.MultiIndex.from_tuples([("a", "x"), ("a", "y"), ("b", "x")], names=RUN)
    shown = pd.DataFrame({"final": [1.0, 0.5, None], "seeds": [1, 2, 3]}, runs)

    table = read(BeautifulSoup(shown.to_html(), "html.parser").table)

    assert list(table) == [*RUN, "final", "seeds"]
    assert table["order"].tolist() == ["x", "y", "x"] and of(table, "a", "y")["final"] == 0.5
    assert table["final"].isna().tolist() == [False, False, True]
