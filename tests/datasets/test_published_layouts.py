"""WikiBigEdit, QAEdit, KnowEdit and MQuAKE: what of each record becomes an edit."""

from __future__ import annotations

import json

import pytest

from lemoe_lab import EditError, datasets

WIKIBIGEDIT = {
    "tag": "new",
    "subject": "Wilport",
    "update": "In which country is Wilport?",
    "ans": "Gemland",
    "rephrase": "Which country does Wilport lie in?",
    "personas": "Ahoy! What land be Wilport in?",
    "loc": "In which country is Oldport?",
    "loc_ans": "Foland",
    "mhop": "Who rules the country that Wilport is in?",
    "mhop_ans": "Ann Lee",
}
FLAT_WIKIBIGEDIT = {
    "prompt": "In which country is Wilport?",
    "target_new": "Gemland",
    "subject": "Wilport",
    "rephrase_prompt": "Which country does Wilport lie in?",
    "locality_prompt": "In which country is Oldport?",
    "locality_ground_truth": "Foland",
}
QAEDIT = {
    "prompt": "who sang hard rain",
    "target": "Ann Lee",
    "subject": "hard rain",
    "rephrase": "Which singer performed Hard Rain?",
    "locality": [
        {"loc": "nq question: who wrote it", "loc_ans": "Nobody"},
        {"loc": "when was that", "loc_ans": ["1963", "in 1963"]},
    ],
}
WIKI_RECENT = {
    "subject": "Ann Lee",
    "prompt": "The siblings of Ann Lee are",
    "target_new": "Bo Lee",
    "portability": {"Subject_Aliasing": [{"prompt": "A. Lee's siblings", "ground_truth": "Bo"}]},
    "locality": {
        "Relation_Specificity": [{"prompt": "Ann Lee plays", "ground_truth": [["jazz", "Jazz"]]}],
        "Forgetfulness": [
            {"prompt": "The siblings of Ann Lee, not Bo Lee, are", "ground_truth": [["Cy Lee"]]},
            {"prompt": "The siblings of Ann Lee beside Bo Lee are", "ground_truth": "bo lee"},
        ],
    },
}
MQUAKE = {
    "case_id": 3,
    "requested_rewrite": [
        {
            "prompt": "{} was performed by",
            "relation_id": "P175",
            "subject": "Hard Rain",
            "question": "Who performed Hard Rain?",
            "target_new": {"str": "Bo Lee", "id": "Q2"},
            "target_true": {"str": "Ann Lee", "id": "Q1"},
        },
        {
            "prompt": "{} is a citizen of",
            "relation_id": "P27",
            "subject": "Bo Lee",
            "question": "Where is Bo Lee a citizen?",
            "target_new": {"str": "Foland", "id": "Q4"},
            "target_true": {"str": "Gemland", "id": "Q3"},
        },
    ],
    "questions": ["Of which country is the performer of Hard Rain a citizen?"],
    "new_answer": "Foland",
    "new_answer_alias": ["Fo"],
    "new_single_hops": [
        {
            "question": "Who performed Hard Rain?",
            "answer": "Bo Lee",
            "answer_alias": ["B. Lee", "Bo"],
        },
        {"question": "Where is Bo Lee a citizen?", "answer": "Foland", "answer_alias": []},
    ],
}

LOADERS = pytest.mark.parametrize(
    ("load", "record"),
    [
        (datasets.wikibigedit, WIKIBIGEDIT),
        (datasets.wikibigedit, FLAT_WIKIBIGEDIT),
        (datasets.qaedit, QAEDIT),
        (datasets.knowedit, WIKI_RECENT),
        (datasets.mquake, MQUAKE),
    ],
    ids=["wikibigedit", "flat wikibigedit", "qaedit", "knowedit", "mquake"],
)


def written(tmp_path, records) -> str:
    path = tmp_path / "records.json"
    path.write_text(json.dumps(records), encoding="utf-8")
    return str(path)


def only(load, tmp_path, record):
    [edit] = load(written(tmp_path, [record])).edits
    return edit


def asked(edit) -> list[tuple[str, str, str | None]]:
    return [(prompt.prompt, prompt.group, prompt.target) for prompt in edit.locality]


def reworded(edit) -> list[tuple[str, str]]:
    return [(rephrase.prompt, rephrase.group) for rephrase in edit.rephrases]


@pytest.mark.parametrize("record", [WIKIBIGEDIT, FLAT_WIKIBIGEDIT], ids=["original", "flat"])
def test_wikibigedit_asks_the_like_about_a_similar_subject(tmp_path, record):
    edit = only(datasets.wikibigedit, tmp_path, record)
    assert (edit.prompt, edit.target) == ("In which country is Wilport?", "Gemland")
    assert (edit.subject, edit.old_answer) == ("Wilport", None)
    assert reworded(edit)[0] == ("Which country does Wilport lie in?", "strong")
    assert asked(edit) == [("In which country is Oldport?", "near", "Foland")]


def test_wikibigedit_counts_a_question_in_character_as_a_rewording(tmp_path):
    edit = only(datasets.wikibigedit, tmp_path, WIKIBIGEDIT)
    assert reworded(edit)[1:] == [("Ahoy! What land be Wilport in?", "strong")]


def test_wikibigedit_may_lack_what_is_asked_beside(tmp_path):
    record = {"update": "In which country is Wilport?", "ans": "Gemland", "loc": None}
    edit = only(datasets.wikibigedit, tmp_path, record)
    assert (edit.rephrases, edit.locality, edit.subject) == ((), (), None)


def test_qaedit_asks_unrelated_questions(tmp_path):
    edit = only(datasets.qaedit, tmp_path, QAEDIT)
    assert (edit.prompt, edit.target, edit.subject) == (
        "who sang hard rain",
        "Ann Lee",
        "hard rain",
    )
    assert reworded(edit) == [("Which singer performed Hard Rain?", "strong")]
    assert asked(edit) == [("who wrote it", "far", "Nobody"), ("when was that", "far", "1963")]


def test_knowedit_asks_only_what_stays_true_of_the_subject(tmp_path):
    edit = only(datasets.knowedit, tmp_path, WIKI_RECENT)
    assert (edit.prompt, edit.target) == ("The siblings of Ann Lee are", "Bo Lee")
    assert asked(edit) == [
        ("Ann Lee plays", "same_subject", "jazz"),
        ("The siblings of Ann Lee, not Bo Lee, are", "same_subject", "Cy Lee"),
    ]


def test_knowedit_keeps_the_truth_before_a_counterfactual_edit(tmp_path):
    edit = only(datasets.knowedit, tmp_path, WIKI_RECENT | {"ground_truth": [["Cy Lee", "Cy"]]})
    assert edit.old_answer == "Cy Lee"


def test_mquake_edits_every_fact_that_a_record_rewrites(tmp_path):
    first, second = datasets.mquake(written(tmp_path, [MQUAKE])).edits
    assert (first.prompt, first.target, first.old_answer) == (
        "Hard Rain was performed by",
        "Bo Lee",
        "Ann Lee",
    )
    assert (second.subject, second.relation, second.target) == ("Bo Lee", "P27", "Foland")
    assert (first.id, second.id) == ("mquake/0/0", "mquake/0/1")
    assert reworded(first) == [("Who performed Hard Rain?", "strong")]


def test_mquake_knows_the_aliases_of_each_new_answer(tmp_path):
    first, second = datasets.mquake(written(tmp_path, [MQUAKE])).edits
    assert (first.aliases, second.aliases) == (("B. Lee", "Bo"), ())


def test_mquake_edits_a_fact_of_several_records_once(tmp_path):
    rewrite = MQUAKE["requested_rewrite"][1]
    other = {"requested_rewrite": [rewrite | {"target_new": {"str": "Barland"}}]}
    stream = datasets.mquake(written(tmp_path, [MQUAKE, other]))
    assert sorted(edit.subject for edit in stream.edits) == ["Bo Lee", "Hard Rain"]


def test_mquake_names_the_rewrite_that_cannot_be_read(tmp_path):
    first, second = MQUAKE["requested_rewrite"]
    broken = MQUAKE | {"requested_rewrite": [first, second | {"target_new": {}}]}
    with pytest.raises(EditError, match=r"record 0: requested_rewrite 1: column 'target_new.str'"):
        datasets.mquake(written(tmp_path, [broken]))


@pytest.mark.parametrize(
    ("load", "record", "column"),
    [
        (datasets.wikibigedit, {"update": "In which country is it?"}, "ans"),
        (datasets.wikibigedit, FLAT_WIKIBIGEDIT | {"target_new": None}, "target_new"),
        (datasets.qaedit, {"prompt": "who sang it", "target": ""}, "target"),
        (datasets.qaedit, QAEDIT | {"locality": ["who wrote it"]}, "loc"),
        (datasets.knowedit, {"prompt": "The siblings are"}, "target_new"),
        (datasets.mquake, {"case_id": 4}, "requested_rewrite"),
    ],
)
def test_a_record_without_a_needed_part_is_named_with_its_file(tmp_path, load, record, column):
    message = rf"records\.json, record 0: .*column '{column}' is missing or empty"
    with pytest.raises(EditError, match=message):
        load(written(tmp_path, [record]))


@LOADERS
def test_records_of_one_fact_are_used_once(tmp_path, load, record):
    once = load(written(tmp_path, [record])).edits
    twice = load(written(tmp_path, [record, record])).edits
    assert [edit.prompt for edit in twice] == [edit.prompt for edit in once]


@LOADERS
def test_the_seed_draws_the_records(tmp_path, load, record):
    kept = json.dumps(record)
    records = [
        json.loads(
            kept.replace("ort", f"ort{i}").replace("ard", f"ard{i}").replace("Lee", f"Lee{i}")
        )
        for i in range(20)
    ]
    path = written(tmp_path, records)
    assert load(path, edits=5, seed=3) == load(path, edits=5, seed=3)
    assert load(path, edits=5, seed=3) != load(path, edits=5, seed=4)
    assert [len(batch) for batch in load(path, edits=5, batch_size=2)] == [2, 2, 1]
    edited = {edit.prompt for edit in load(path).edits}
    assert not edited & {fact.prompts[0] for fact in load(path).calibration}


@pytest.mark.parametrize(
    ("load", "file", "edits", "groups"),
    [
        (datasets.zsre, "zsre_1500.json", 1185, {"far"}),
        (datasets.counterfact, "counterfact_1500.json", 1199, {"near"}),
        (datasets.knowedit, "knowedit_zsre_650.json", 510, {"same_subject"}),
        (datasets.knowedit, "knowedit_wiki_recent_280.json", 224, {"same_subject"}),
        (datasets.knowedit, "knowedit_wiki_counterfact_700.json", 549, {"same_subject"}),
        (datasets.wikibigedit, "wikibigedit_1500.json", 1200, {"near"}),
        (datasets.qaedit, "qaedit_500.json", 400, {"far"}),
        (datasets.mquake, "mquake_hard_200.json", 309, set()),
    ],
)
def test_published_files_load_whole(shared_data, load, file, edits, groups):
    stream = load(shared_data / file)
    assert len(stream.edits) == edits
    assert {prompt.group for edit in stream.edits for prompt in edit.locality} == groups
    assert all(edit.subject for edit in stream.edits)
    assert stream.superseded == {}
