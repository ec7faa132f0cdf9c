"""Metrics on cases worked out by hand."""

import math

import numpy as np
import pandas as pd
import pytest
import torch

from lemoe_lab import metrics


def rows(*measured, metric="reliability", scorer="generated"):
    """A metrics frame from (step, batch, edit, value)."""
    return pd.DataFrame(
        [(step, batch, edit, metric, "", scorer, value) for step, batch, edit, value in measured],
        columns=list(metrics.COLUMNS),
    )


@pytest.fixture
def matrix():
    """Three batches: the first is forgotten bit by bit, the second gains before it loses."""
    nan = math.nan
    return pd.DataFrame(
        [[1.0, nan, nan], [0.8, 0.5, nan], [0.4, 0.3, 0.9]],
        index=pd.Index([1, 2, 3], name="measured_after"),
        columns=pd.Index([1, 2, 3], name="batch"),
    )


def test_the_table_of_measurements_has_these_metrics_and_columns():
    assert metrics.METRICS == ("reliability", "generality", "locality")
    assert metrics.COLUMNS == ("step", "batch", "edit", "metric", "group", "scorer", "value")


def test_a_measurement_names_what_the_columns_are():
    measured = metrics.Measurement(3, 1, "e", "locality", "near", "generated", 0.5)
    assert (measured.step, measured.edit, measured.value) == (3, "e", 0.5)
    table = metrics.table_of([measured])
    assert tuple(table.columns) == metrics.COLUMNS
    assert metrics.rows_of(table) == [measured]


def test_a_table_of_nothing_has_the_columns():
    assert tuple(metrics.table_of([]).columns) == metrics.COLUMNS


def test_immediate_rows_were_measured_right_after_their_batch():
    table = rows((1, 1, "a", 1.0), (2, 1, "a", 0.0), (2, 2, "b", 1.0), (0, 1, "a", 0.0))
    assert [(row.step, row.edit) for row in metrics.rows_of(metrics.immediate_rows(table))] == [
        (1, "a"),
        (2, "b"),
    ]


def test_final_rows_are_those_of_applied_batches_after_the_last_step_of_each_run():
    short = rows((1, 1, "a", 1.0), (1, 2, "b", 0.0)).assign(seed=1)  # b is not applied
    long = rows((1, 1, "a", 1.0), (2, 1, "a", 0.0), (2, 2, "b", 1.0)).assign(seed=2)
    table = pd.concat([short, long])
    final = metrics.final_rows(table, metrics.last_step(table, ["seed"]))
    assert list(zip(final["seed"], final["edit"], strict=True)) == [(1, "a"), (2, "a"), (2, "b")]
    assert list(metrics.final_rows(long, 1)["edit"]) == ["a"]


@pytest.mark.parametrize(
    ("answer", "target", "expected"),
    [
        ("Mira Osk", "Mira Osk", 1.0),
        (" mira  osk. ", "Mira Osk", 1.0),
        ("Mira", "Mira Osk", 0.0),
        ("Mira Osk", "Mira", 0.0),
        ("", "Mira Osk", 0.0),
    ],
)
def test_exact_match_compares_normalised_answers(answer, target, expected):
    assert metrics.exact_match(answer, target) == expected


@pytest.mark.parametrize("kind", [torch.tensor, np.array, list])
def test_token_accuracy_is_the_share_of_correct_tokens(kind):
    assert metrics.token_accuracy(kind([True, False, True, True])) == 0.75


@pytest.mark.parametrize("function", [metrics.token_accuracy, metrics.perplexity])
def test_scores_of_no_tokens_are_an_error(function):
    with pytest.raises(ValueError, match="at least one"):
        function(torch.tensor([]))


def test_perplexity_of_uniform_guesses_is_the_number_of_choices():
    assert metrics.perplexity(torch.full((5,), -math.log(8.0))) == pytest.approx(8.0)


def test_perplexity_takes_half_precision():
    assert metrics.perplexity(torch.zeros(3, dtype=torch.bfloat16)) == 1.0


@pytest.mark.parametrize(
    ("base", "edited", "expected"),
    [(10.0, 10.0, 1.0), (10.0, 40.0, 0.25), (10.0, 5.0, 1.0), (10.0, math.inf, 0.0)],
)
def test_perplexity_ratio_lies_between_zero_and_one(base, edited, expected):
    assert metrics.perplexity_ratio(base, edited) == expected


@pytest.mark.parametrize(("base", "edited", "expected"), [(1.0, 4.0, 0.25), (4.0, 1.0, 1.0)])
def test_a_text_that_is_certain_has_a_perplexity_of_one(base, edited, expected):
    assert metrics.perplexity_ratio(base, edited) == expected


@pytest.mark.parametrize("edited", [0.0, -0.5, -2.0])
def test_a_logarithm_passed_for_a_perplexity_is_refused(edited):
    with pytest.raises(ValueError, match="a perplexity is positive"):
        metrics.perplexity_ratio(10.0, edited)


def test_a_model_edited_to_nan_has_perplexity_ratio_zero():
    assert metrics.perplexity_ratio(10.0, math.nan) == 0.0


@pytest.mark.parametrize("base", [0.0, math.nan, math.inf])
def test_perplexity_ratio_needs_a_usable_base(base):
    with pytest.raises(ValueError, match="unedited host"):
        metrics.perplexity_ratio(base, 10.0)


def test_forgetting_matrix_averages_the_edits_of_a_batch():
    frame = rows((1, 1, "a", 1), (1, 1, "b", 1), (2, 1, "a", 0), (2, 1, "b", 1), (2, 2, "c", 1))
    matrix = metrics.forgetting_matrix(frame)
    assert matrix.index.name == "measured_after" and matrix.columns.name == "batch"
    assert matrix.loc[1, 1] == 1.0 and matrix.loc[2, 1] == 0.5 and matrix.loc[2, 2] == 1.0
    assert math.isnan(matrix.loc[1, 2])


def test_forgetting_matrix_ignores_what_was_measured_before_learning():
    frame = rows((0, 1, "a", 0), (0, 2, "b", 0), (1, 1, "a", 1), (1, 2, "b", 0), (2, 2, "b", 1))
    matrix = metrics.forgetting_matrix(frame)
    assert list(matrix.index) == [1, 2]
    assert math.isnan(matrix.loc[1, 2])


def test_forgetting_matrix_knows_batches_from_the_first_on():
    matrix = metrics.forgetting_matrix(rows((1, 0, "none", 0), (1, 1, "a", 1)))
    assert list(matrix.columns) == [1]


@pytest.mark.parametrize(("metric", "value"), [("reliability", 1.0), ("generality", 0.5)])
def test_forgetting_matrix_holds_one_metric_of_several(metric, value):
    frame = pd.concat(
        [
            rows((1, 1, "a", 1)),
            rows((1, 1, "a", 0.5), metric="generality"),
            rows((1, 1, "a", 0), metric="locality"),
        ]
    )
    assert metrics.forgetting_matrix(frame, metric=metric).loc[1, 1] == value


def test_forgetting_matrix_counts_an_edit_once_even_if_measured_twice():
    frame = rows((1, 1, "a", 1), (1, 1, "a", 1), (1, 1, "b", 0))
    assert metrics.forgetting_matrix(frame).loc[1, 1] == 0.5


def test_a_superseded_edit_stops_counting_at_the_step_that_replaces_it():
    frame = rows((1, 1, "a", 1), (1, 1, "b", 1), (2, 1, "a", 0), (2, 1, "b", 1), (2, 2, "c", 1))
    matrix = metrics.forgetting_matrix(frame, superseded={"a": 2})
    assert matrix.loc[1, 1] == 1.0 and matrix.loc[2, 1] == 1.0


def test_a_superseded_edit_does_not_count_at_later_steps_either():
    frame = rows((2, 1, "a", 1), (2, 1, "b", 1), (3, 1, "a", 0), (3, 1, "b", 1))
    assert metrics.forgetting_matrix(frame, superseded={"a": 2}).loc[3, 1] == 1.0


def test_forgetting_matrix_asks_which_scorer_when_there_are_two():
    frame = pd.concat([rows((1, 1, "a", 1)), rows((1, 1, "a", 0), scorer="teacher_forced")])
    with pytest.raises(ValueError, match="pass scorer="):
        metrics.forgetting_matrix(frame)
    assert metrics.forgetting_matrix(frame, scorer="teacher_forced").loc[1, 1] == 0.0


def test_forgetting_matrix_names_what_the_frame_has_when_nothing_fits():
    with pytest.raises(ValueError, match="reliability"):
        metrics.forgetting_matrix(rows((1, 1, "a", 1)), metric="locality")


def test_immediate_is_the_diagonal_and_final_the_last_row(matrix):
    assert metrics.immediate(matrix).tolist() == [1.0, 0.5, 0.9]
    assert metrics.final(matrix).tolist() == [0.4, 0.3, 0.9]
    assert (metrics.immediate(matrix).name, metrics.final(matrix).name) == ("immediate", "final")


def test_a_batch_that_was_not_measured_when_it_was_learned_has_no_immediate_value(matrix):
    values = metrics.immediate(matrix.drop(index=2))
    assert values[[1, 3]].tolist() == [1.0, 0.9] and math.isnan(values[2])


def test_average_forgetting_measures_from_the_best_earlier_value(matrix):
    matrix.loc[2, 1] = 1.0
    assert metrics.average_forgetting(matrix) == pytest.approx((0.6 + 0.2) / 2)


def test_average_forgetting_uses_a_peak_that_came_after_learning(matrix):
    matrix.loc[4] = [0.1, 0.3, 0.9]
    matrix.loc[3, 2] = 0.9  # batch 2 was at 0.5 when it was learned
    assert metrics.average_forgetting(matrix) == pytest.approx((0.9 + 0.6 + 0.0) / 3)


def test_average_forgetting_is_negative_when_the_end_is_the_best(matrix):
    matrix.loc[3, [1, 2]] = [1.0, 0.9]
    assert metrics.average_forgetting(matrix) == pytest.approx((0.0 - 0.4) / 2)


def test_backward_transfer_compares_the_end_with_the_diagonal(matrix):
    assert metrics.backward_transfer(matrix) == pytest.approx((-0.6 - 0.2) / 2)


def test_backward_transfer_is_positive_when_later_batches_help(matrix):
    matrix.loc[3, 2] = 1.0
    matrix.loc[3, 1] = 1.0
    assert metrics.backward_transfer(matrix) == pytest.approx(0.25)


def test_one_batch_has_no_forgetting_to_speak_of():
    matrix = metrics.forgetting_matrix(rows((1, 1, "a", 1)))
    assert math.isnan(metrics.average_forgetting(matrix))
    assert math.isnan(metrics.backward_transfer(matrix))
