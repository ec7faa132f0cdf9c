"""Loaders of published files and of the user's own facts."""

from __future__ import annotations

import json

import pandas as pd
import pytest

import lemoe_lab as ll
from lemoe_lab import EditError, datasets

ZSRE = {
    "subject": "Gemland",
    "src": "What is the capital of Gemland?",
    "alt": "Wilport",
    "rephrase": "Which city is Gemland's capital?",
    "answers": '["Oldport"]',
    "loc": "nq question: who wrote it",
    "loc_ans": "Nobody",
}


def written(tmp_path, records) -> str:
    path = tmp_path / "records.json"
    path.write_text(json.dumps(records))
    return str(path)


def many(count: int) -> list[dict]:
    return [ZSRE | {"src": f"{ZSRE['src']} ({i})", "subject": f"S{i}"} for i in range(count)]


def test_zsre_becomes_edits_with_a_rephrase_and_an_unrelated_question(tmp_path):
    edit = datasets.zsre(written(tmp_path, many(5))).edits[0]
    assert edit.target == "Wilport" and edit.old_answer == "Oldport"
    assert edit.rephrases[0].prompt == ZSRE["rephrase"]
    assert edit.locality[0].model_dump() == {
        "prompt": "who wrote it",
        "group": "far",
        "target": "Nobody",
    }


def test_records_that_calibrate_are_not_edited(tmp_path):
    stream = datasets.zsre(written(tmp_path, many(20)))
    assert len(stream.edits) == 16 and len(stream.calibration) == 4
    calibrated = {prompt for fact in stream.calibration for prompt in fact.prompts}
    assert not calibrated & {edit.prompt for edit in stream.edits}


def test_the_same_seed_draws_the_same_edits(tmp_path):
    path = written(tmp_path, many(20))
    assert datasets.zsre(path, edits=5, seed=3) == datasets.zsre(path, edits=5, seed=3)
    assert datasets.zsre(path, edits=5, seed=3) != datasets.zsre(path, edits=5, seed=4)


def test_more_edits_than_there_are_is_a_clear_error(tmp_path):
    with pytest.raises(EditError, match="1 to 8 edits, not 9"):
        datasets.zsre(written(tmp_path, many(10)), edits=9)


def test_a_record_without_a_needed_column_is_named(tmp_path):
    records = many(1)
    del records[0]["alt"]
    with pytest.raises(EditError, match=r"record 0: column 'alt' is missing"):
        datasets.zsre(written(tmp_path, records))


def test_a_file_that_is_missing_or_no_list_is_a_clear_error(tmp_path):
    with pytest.raises(EditError, match="does not exist"):
        datasets.counterfact(tmp_path / "none.json")
    with pytest.raises(EditError, match="list of records"):
        datasets.counterfact(written(tmp_path, {"a": 1}))


@pytest.mark.parametrize(
    ("load", "file", "edits", "groups"),
    [
        (datasets.zsre, "zsre_mend_200.json", 160, {"far"}),
        (datasets.counterfact, "counterfact_edit_200.json", 160, {"near"}),
        (datasets.hallucination, "hallucination_edit_60.json", 48, {"text"}),
    ],
)
def test_published_files_load(shared_data, load, file, edits, groups):
    stream = load(shared_data / file)
    assert len(stream.edits) == edits
    assert {prompt.group for edit in stream.edits for prompt in edit.locality} == groups


def test_records_need_only_a_prompt_and_a_target():
    stream = datasets.from_records([{"prompt": "The capital of Gemland is", "target": "Wilport"}])
    assert stream.edits[0].id == "row/1"


def test_a_csv_file_lists_rephrases_in_one_cell(tmp_path):
    path = tmp_path / "facts.csv"
    path.write_text(
        "prompt,target,rephrases,near\n"
        "The capital of Gemland is,Wilport,Gemland's capital is|Gemland is ruled from,\n"
    )
    edit = datasets.from_csv(path, batch_size=1).edits[0]
    assert [r.prompt for r in edit.rephrases] == ["Gemland's capital is", "Gemland is ruled from"]
    assert edit.locality == ()


def test_empty_cells_of_a_dataframe_are_left_out():
    frame = pd.DataFrame(
        [{"prompt": "a b", "target": "c", "subject": None}, {"prompt": "d e", "target": "f"}]
    )
    assert [edit.subject for edit in datasets.from_dataframe(frame).edits] == [None, None]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "a b"}, "row 2: column 'target' is missing"),
        ({"prompt": "a b", "target": 3}, "row 2, column 'target': expected text, got int"),
        ({"prompt": "a b", "target": "c", "rephrase": "x"}, "row 2: unknown column 'rephrase'"),
        ({"prompt": "a b", "target": "c", "near": 5}, "row 2, column 'near': expected a list"),
        ({"prompt": "a b", "target": "c", "old_answer": "c"}, "row 2: .*already says"),
    ],
)
def test_a_bad_row_is_named_with_its_column(row, message):
    with pytest.raises(EditError, match=message):
        datasets.from_records([{"prompt": "x y", "target": "z"}, row])


def test_locality_is_kept_where_the_host_answers_as_before_whatever_the_file_says(host, stream):
    edit = stream.edits[0]
    wrong = ll.edits.LocalityPrompt(
        prompt=stream.edits[1].prompt, group="near", target="Something else"
    )
    only = stream.with_groups([[edit.model_copy(update={"locality": (wrong,)})]])
    with ll.EditSession(host, ll.editors.LEMoE(steps=2), only, progress=False) as session:
        session.step()
        kept = session.metrics.query("metric == 'locality'")
    assert kept["value"].tolist() == [1.0, 1.0]
