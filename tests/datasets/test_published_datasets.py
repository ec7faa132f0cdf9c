"""Loaders of published files and of the user's own facts."""

from __future__ import annotations

import json

import pandas as pd
import pytest

import lemoe_lab as ll
from lemoe_lab import EditError, datasets

KNOWEDIT_ZSRE = {
    "subject": "Gemland",
    "prompt": "What is the capital of Gemland?",
    "target_new": "Wilport",
    "ground_truth": ["Oldport"],
    "rephrase_prompt": "Which city is Gemland's capital?",
    "locality": {
        "Relation_Specificity": [
            {"prompt": "Gemland's head of state is", "ground_truth": [["Ann Lee", "A. Lee"]]},
            {"prompt": "Gemland lies in", "ground_truth": "Europe"},
        ]
    },
    "portability": {"Reasoning": [{"prompt": "Wilport's river is", "ground_truth": "Wil"}]},
}
KNOWEDIT_WIKIBIO = {
    "text": "This is a Wikipedia passage about ann lee. Ann Lee is a singer.",
    "labels": "She was born in Wilport.",
    "concept": "ann lee",
    "locality": {"Relation_Specificity": [{"prompt": "ann lee sings", "ground_truth": ["jazz"]}]},
}
ROME = {
    "case_id": 7,
    "requested_rewrite": {
        "prompt": "The capital of {} is",
        "relation_id": "P36",
        "subject": "Gemland",
        "target_new": {"id": "Q1", "str": "Wilport"},
        "target_true": {"id": "Q2", "str": "Oldport"},
    },
    "paraphrase_prompts": ["It rained. Gemland is ruled from", "Gemland's capital city is"],
    "neighborhood_prompts": ["The capital of Foland is", "The capital of Barland is"],
}

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


def test_zsre_of_knowedit_asks_other_relations_of_the_subject(tmp_path):
    edit = datasets.zsre(written(tmp_path, [KNOWEDIT_ZSRE])).edits[0]
    assert (edit.prompt, edit.target) == (KNOWEDIT_ZSRE["prompt"], "Wilport")
    assert (edit.old_answer, edit.subject) == ("Oldport", "Gemland")
    assert [rephrase.group for rephrase in edit.rephrases] == ["light"]
    assert {prompt.group for prompt in edit.locality} == {"same_subject"}
    assert [prompt.target for prompt in edit.locality] == ["Ann Lee", "Europe"]


def test_hallucination_of_knowedit_has_names_of_its_own(tmp_path):
    edit = datasets.hallucination(written(tmp_path, [KNOWEDIT_WIKIBIO])).edits[0]
    assert (edit.prompt, edit.target, edit.subject) == (
        KNOWEDIT_WIKIBIO["text"],
        "She was born in Wilport.",
        "ann lee",
    )
    assert edit.rephrases == () and edit.locality[0].target == "jazz"


@pytest.mark.parametrize("suffix", ["json", "parquet"])
def test_counterfact_as_its_authors_give_it_out_asks_every_paraphrase_and_neighbour(
    tmp_path, suffix
):
    path = tmp_path / f"records.{suffix}"
    frame = pd.DataFrame([ROME])
    frame.to_parquet(path) if suffix == "parquet" else frame.to_json(path, orient="records")
    edit = datasets.counterfact(path).edits[0]
    assert (edit.prompt, edit.target) == ("The capital of Gemland is", "Wilport")
    assert (edit.old_answer, edit.subject) == ("Oldport", "Gemland")
    assert [rephrase.prompt for rephrase in edit.rephrases] == ROME["paraphrase_prompts"]
    assert {rephrase.group for rephrase in edit.rephrases} == {"strong"}
    assert [(p.prompt, p.group, p.target) for p in edit.locality] == [
        (neighbour, "near", "Oldport") for neighbour in ROME["neighborhood_prompts"]
    ]


def test_a_record_without_a_part_is_named_by_the_way_to_it(tmp_path):
    rewrite = {key: ROME["requested_rewrite"][key] for key in ("prompt", "subject")}
    with pytest.raises(EditError, match=r"record 0: column 'requested_rewrite.target_new.str'"):
        datasets.counterfact(written(tmp_path, [ROME | {"requested_rewrite": rewrite}]))


def test_a_prompt_that_comes_twice_is_used_once(tmp_path):
    records = many(10)
    stream = datasets.zsre(written(tmp_path, [*records, *records]))
    calibrated = [fact.prompts[0] for fact in stream.calibration]
    prompts = [edit.prompt for edit in stream.edits]
    assert sorted(calibrated + prompts) == sorted(record["src"] for record in records)


def test_every_fact_that_calibrates_has_two_phrasings(tmp_path):
    records = [KNOWEDIT_WIKIBIO | {"text": f"{KNOWEDIT_WIKIBIO['text']} {i}"} for i in range(10)]
    stream = datasets.hallucination(written(tmp_path, records))
    passage, half = stream.calibration[0].prompts
    assert passage.endswith(half) and len(half.split()) < len(passage.split())


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
    for edits in (9, 0, -1):
        with pytest.raises(EditError, match=f"1 to 8 edits, not {edits}"):
            datasets.zsre(written(tmp_path, many(10)), edits=edits)


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
    (tmp_path / "records.parquet").write_text("[]")
    with pytest.raises(EditError, match="no Parquet file"):
        datasets.counterfact(tmp_path / "records.parquet")


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


LOADERS = pytest.mark.parametrize(
    ("load", "record"),
    [
        (datasets.zsre, ZSRE),
        (datasets.zsre, KNOWEDIT_ZSRE),
        (datasets.counterfact, ROME),
        (datasets.hallucination, KNOWEDIT_WIKIBIO),
    ],
    ids=["zsre", "zsre of KnowEdit", "counterfact", "hallucination"],
)


@LOADERS
@pytest.mark.parametrize("name", ["records.jsonl", "records.json"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_a_published_file_may_hold_one_record_a_line(tmp_path, load, record, name, mark):
    path = tmp_path / name
    path.write_text(mark + f"{json.dumps(record)}\n\n" * 2, encoding="utf-8")
    assert load(path).edits == load(written(tmp_path, [record, record])).edits


@LOADERS
def test_a_published_file_that_was_cut_off_is_refused_at_that_line(tmp_path, load, record):
    path = tmp_path / "records.jsonl"
    path.write_text(f"{json.dumps(record)}\n{json.dumps(record)[:40]}")
    with pytest.raises(EditError, match=r"records\.jsonl, line 2, column \d+: .*cut off"):
        load(path)
    path.write_text(json.dumps([record, record], indent=1)[:-30])
    with pytest.raises(EditError, match=r"records\.jsonl .*line \d+, column \d+.*cut off"):
        load(path)


def test_a_record_without_a_needed_column_is_named_by_its_line(tmp_path):
    path = tmp_path / "records.jsonl"
    path.write_text("\n" + json.dumps({"src": "A is", "alt": "b", "rephrase": "a", "loc": None}))
    with pytest.raises(EditError, match=r"record 0 \(line 2\): column 'loc' is missing or empty"):
        datasets.zsre(path)


@pytest.mark.parametrize(
    ("alt", "answers"),
    [
        (["UK", "United Kingdom"], ("UK", "United Kingdom")),
        ('["UK", "Britain", "UK"]', ("UK", "Britain")),
        (1963, ("1963",)),
    ],
)
def test_every_answer_that_a_file_calls_right_is_right(tmp_path, alt, answers):
    edit = datasets.zsre(written(tmp_path, [ZSRE | {"alt": alt}])).edits[0]
    assert edit.answers == answers


def test_answers_beside_the_target_are_its_aliases(tmp_path):
    record = ROME | {"new_answer_alias": ["Port Wil", "Wilport"]}
    edit = datasets.counterfact(written(tmp_path, [record])).edits[0]
    assert edit.answers == ("Wilport", "Port Wil")


@pytest.mark.parametrize("old", [["Port Wil"], ["Oldport", "port  wil."], "wilport."])
def test_an_old_answer_that_stays_right_is_none(tmp_path, old):
    record = ZSRE | {"alt": ["Wilport", "Port Wil"], "answers": old}
    assert datasets.zsre(written(tmp_path, [record])).edits[0].old_answer is None


def test_not_a_number_is_no_answer(tmp_path):
    record = ZSRE | {"loc_ans": float("nan"), "answers": float("nan")}
    edit = datasets.zsre(written(tmp_path, [record])).edits[0]
    assert (edit.old_answer, edit.locality[0].target) == (None, None)


def test_a_prompt_that_rephrases_another_is_used_once(tmp_path):
    reworded = ZSRE | {"src": ZSRE["rephrase"], "rephrase": "Gemland is ruled from", "alt": "Fo"}
    stream = datasets.zsre(written(tmp_path, [ZSRE, reworded]))
    assert len(stream.edits) == 1


@pytest.mark.parametrize("name", ["records.json", "records.parquet"])
def test_a_published_file_without_records_is_refused(tmp_path, name):
    path = tmp_path / name
    pd.DataFrame({"src": []}).to_parquet(path) if "parquet" in name else path.write_text("[]")
    with pytest.raises(EditError, match="holds no records"):
        datasets.zsre(path)


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
