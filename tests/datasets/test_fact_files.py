"""Files and tables of facts: read as they are written, or refused with the place and the remedy."""

from __future__ import annotations

import codecs
import csv
import datetime
import io
import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lemoe_lab import EditError, datasets

CAPITAL = "The capital of Gemland is"
FACTS = f"prompt,target,subject\n{CAPITAL},Wilport,Gemland\nThe river of Foland is,Fo,Foland\n"


@pytest.fixture
def read(tmp_path):
    """Edits of a CSV file with this content."""

    def read(content: str | bytes, **options):
        path = tmp_path / "facts.csv"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return datasets.from_csv(path, **options).edits

    return read


@pytest.fixture
def read_json(tmp_path):
    """Edits of a JSON file with this content."""

    def read(content: str | bytes, name: str = "facts.jsonl", **options):
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return datasets.from_json(path, **options).edits

    return read


def as_csv(rows, separator=",", **options) -> str:
    text = io.StringIO(newline="")
    csv.writer(text, delimiter=separator, **options).writerows(rows)
    return text.getvalue()


class TestCsvLayout:
    @pytest.mark.parametrize("separator", [",", ";", "\t"])
    def test_the_header_shows_what_separates_the_fields(self, read, separator):
        rows = [["id", "prompt", "target"], ["a", "In Wilport; Gemland, one\tpays in", "gems"]]
        (edit,) = read(as_csv(rows, separator))
        assert (edit.id, edit.prompt, edit.target) == tuple(rows[1])

    @pytest.mark.parametrize(
        "content",
        [
            FACTS.encode(),
            codecs.BOM_UTF8 + FACTS.encode(),
            codecs.BOM_UTF16_LE + FACTS.encode("utf-16-le"),
            codecs.BOM_UTF16_BE + FACTS.encode("utf-16-be"),
            FACTS.replace("\n", "\r\n").encode(),
            FACTS.replace("\n", "\r").encode(),
            b"sep=;\r\n" + FACTS.replace(",", ";").encode(),
            FACTS.replace("prompt,target", " Prompt , TARGET").encode(),
            FACTS.replace("\n", "\n\n").encode() + b",,\n",
            pd.read_csv(io.StringIO(FACTS)).to_csv().encode(),
        ],
        ids=[
            *["plain", "UTF-8 mark", "UTF-16 LE", "UTF-16 BE", "CRLF", "CR", "Excel's sep="],
            *["blanks and capitals in the header", "blank lines", "pandas' row numbers"],
        ],
    )
    def test_what_programs_write_around_the_facts_changes_nothing(self, read, content):
        edits = read(content)
        assert [edit.prompt for edit in edits] == [CAPITAL, "The river of Foland is"]
        assert [edit.target for edit in edits] == ["Wilport", "Fo"]
        assert [edit.subject for edit in edits] == ["Gemland", "Foland"]

    def test_quoted_fields_hold_separators_line_breaks_and_quotes(self, read):
        (edit,) = read('prompt,target\n"In ""Wil"", Gemland,\none pays in", "gems, or tin"\n')
        assert edit.prompt == 'In "Wil", Gemland,\none pays in'
        assert edit.target == "gems, or tin"

    @pytest.mark.parametrize("word", ["NA", "null", "None", "nan", "N/A", "001", "1e5", "TRUE"])
    def test_a_word_that_looks_like_something_else_stays_a_word(self, read, word):
        (edit,) = read(f"prompt,target,old_answer\nThe code of Gemland is,{word},\n")
        assert edit.target == word
        assert edit.old_answer is None

    def test_other_encodings_are_read_when_they_are_named(self, read):
        content = "prompt,target\nDie Stadt in Gemland heißt,Münze\n".encode("cp1252")
        assert read(content, encoding="cp1252")[0].target == "Münze"

    @pytest.mark.parametrize("where", ["prompt", "target"])
    def test_an_aliases_column_names_other_right_answers(self, read, where):
        (edit,) = read(f"prompt,target,aliases\n{CAPITAL},Wilport,Port Wil | W. Port|Wilport|\n")
        assert edit.answers == ("Wilport", "Port Wil", "W. Port")


REFUSED = {
    "an unquoted separator in the first row": (
        "prompt,target,subject\nThe mayor of Wil, Gemland is,Ann,Wil\n",
        r"facts\.csv, row 1 \(line 2\): 4 fields.* 3 columns \(prompt, target, subject\).*quote|\"",
    ),
    "an unquoted separator below a field of two lines": (
        'prompt,target\n"A\nb is",c\nd, e is,f\n',
        r"facts\.csv, row 2 \(line 4\): 3 fields.* 2 columns",
    ),
    "a field too few": (
        "prompt,target,subject\nA is,b\n",
        r"facts\.csv, row 1 \(line 2\): 2 fields.* 3 columns.*separator for every empty",
    ),
    "a quote that is never closed": (
        'prompt,target\nA is,b\n"C is,d\nE is,f\n',
        r"facts\.csv, line 3: the row that begins here cannot be split.*twice",
    ),
    "text behind a closing quote": ('prompt,target\n"C" is,d\n', r"facts\.csv, line 2: the row"),
    "an empty file": ("", r"facts\.csv is empty.*prompt,target"),
    "blank lines only": ("\n \n", r"facts\.csv is empty"),
    "a header only": ("prompt,target\n", r"facts\.csv has a header and no rows"),
    "two columns of a name": (
        "prompt,target,Target \nA is,b,c\n",
        r"facts\.csv, line 1: 2 columns are called 'target'; rename",
    ),
    "a slip in a column's name": (
        "promt,target\nA is,b\n",
        r"facts\.csv, row 1 \(line 2\): unknown column 'promt'; did you mean 'prompt'\?",
    ),
    "no header": (
        "The capital of Gemland is,Wilport\nThe river of Foland is,Fo\n",
        r"line 1: 'The capital of Gemland is', 'Wilport' names no known column.*first line must",
    ),
    "a separator of another kind": ("prompt|target\nA is|b\n", "line 1: .*with , or ; or tab"),
    "a column that nobody knows": (
        "prompt,target,mood\nA is,b,sad\n",
        r"row 1 \(line 2\): unknown column 'mood'; known are .*leave it out",
    ),
    "a column without a name": (
        "prompt,target,\nA is,b,sad\n",
        r"row 1 \(line 2\): a column without a name holds 'sad'; name it",
    ),
    "no target": (
        "prompt,target\nA is,b\nC is,\n",
        r"facts\.csv, row 2 \(line 3\): column 'target' is missing or empty",
    ),
    "an id twice": (
        "id,prompt,target\nx,A is,b\ny,C is,d\nx,E is,f\n",
        r"facts\.csv, row 3 \(line 4\), column 'id': 'x' is already the id of .*row 1 \(line 2\)",
    ),
    "a prompt twice in a batch": (
        "id,prompt,target\nx,A is,b\ny,a is,c\n",
        r"facts\.csv, edit 'y'.*two targets in batch 1.*edit 'x'",
    ),
    "another encoding": (
        "prompt,target\nA is,b\nDie Straße ist,c\n".encode("latin-1"),
        r"facts\.csv, line 3: byte 0xdf is not utf-8.*encoding='cp1252'.*encoding='latin-1'",
    ),
    "UTF-16 without a mark": (FACTS.encode("utf-16-le"), r"facts\.csv holds zero bytes.*utf-16-le"),
    "a workbook": (b"PK\x03\x04\x14\x00", r"facts\.csv is an Excel workbook; save it as CSV"),
}


@pytest.mark.parametrize(("content", "message"), REFUSED.values(), ids=REFUSED)
def test_a_csv_file_is_refused_by_file_row_and_remedy(read, content, message):
    with pytest.raises(EditError, match=message):
        read(content)


def test_an_encoding_that_does_not_exist_is_refused_with_some_that_do(read):
    with pytest.raises(EditError, match="no encoding 'utf-9'.*'utf-8', 'cp1252'"):
        read(FACTS, encoding="utf-9")


@pytest.mark.parametrize("load", [datasets.from_csv, datasets.from_json])
def test_a_file_that_is_not_there_or_is_a_folder_is_refused_by_its_name(tmp_path, load):
    with pytest.raises(EditError, match="none.csv does not exist"):
        load(tmp_path / "none.csv")
    with pytest.raises(EditError, match="cannot be read"):
        load(tmp_path)


# Quotes, separators and line breaks more often than chance would bring them.
texts = st.text(
    st.one_of(
        st.sampled_from(' ,;\t"\n\r|=NA1'),
        st.characters(exclude_categories=["Cs"], exclude_characters="\0\ufeff"),
    ),
    max_size=8,
)
stripped = texts.map(str.strip).filter(bool)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    facts=st.lists(st.tuples(stripped, stripped, texts), min_size=1, max_size=4),
    separator=st.sampled_from([",", ";", "\t"]),
    encoding=st.sampled_from([None, "utf-8-sig", "utf-16", "utf-16-le", "utf-32"]),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
)
def test_what_a_csv_writer_writes_comes_back_as_it_was(read, facts, separator, encoding, quoting):
    rows = [["prompt", "target", "topic"], *facts]
    content = as_csv(rows, separator, quoting=quoting).encode(encoding or "utf-8")
    edits = read(content, encoding=encoding, batch_size=1)
    found = [(edit.prompt, edit.target, edit.topic) for edit in edits]
    assert found == [(p, t, topic if topic.strip() else None) for p, t, topic in facts]


class TestJson:
    @pytest.mark.parametrize("name", ["facts.jsonl", "facts.json"])
    @pytest.mark.parametrize("mark", [b"", codecs.BOM_UTF8])
    def test_one_object_a_line_is_read_like_a_list_of_objects(self, read_json, name, mark):
        records = [{"prompt": f"Line\u2028{i} is", "target": "x"} for i in range(3)]
        lines = "\r\n\n".join(json.dumps(record, ensure_ascii=False) for record in records)
        as_list = read_json(mark + json.dumps(records).encode(), name)
        assert read_json(mark + lines.encode(), name) == as_list
        assert [edit.prompt for edit in as_list] == [record["prompt"] for record in records]

    @pytest.mark.parametrize(
        ("written", "target"),
        [
            *[("1963", "1963"), ("1963.0", "1963"), ("0.10", "0.10")],
            *[("123456789012345678901", "123456789012345678901"), ('"001"', "001")],
        ],
    )
    def test_a_number_is_the_text_that_is_written(self, read_json, written, target):
        assert read_json(f'{{"prompt": "A is", "target": {written}}}')[0].target == target

    def test_null_and_nan_say_nothing(self, read_json):
        (edit,) = read_json('{"prompt": "A is", "target": "b", "topic": null, "date": NaN}')
        assert (edit.topic, edit.date) == (None, None)

    def test_a_list_of_targets_holds_the_target_and_its_aliases(self, read_json):
        (edit,) = read_json('{"prompt": "He is from", "target": ["UK", "United Kingdom", ["UK"]]}')
        assert edit.answers == ("UK", "United Kingdom")

    def test_an_old_answer_that_is_an_alias_is_left_out(self, read_json):
        content = '{"prompt": "He is from", "target": ["UK", "Britain"], "old_answer": "britain"}'
        assert read_json(content)[0].old_answer is None

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ('{"prompt": "A is", "target": "b"}\n{"prompt": "C', r"line 2, column 12: .*cut off"),
            ('[{"prompt": "A is", "target": "b"},\n{"prom', r"line 2, column 2.*cut off"),
            ('{"prompt": "A is", "target": "b"}\n[1]\n', r"line 2: is a list; write one object"),
            ("[3]", r"record 1 is a text or number; write it as an object"),
            ("", "is empty"),
            ("[" * 100_000, "line 1, column 1: Too many lists"),
            ('"facts"', "must hold a list of records, not a text"),
            ('\n{"prompt": "A is"}', r"row 1 \(line 2\): column 'target' is missing"),
            ('\n{"prompt": "A"}\n{}', r"row 1 \(line 2\): column 'target' is missing"),
            (
                '{"prompt": "A", "target": true}',
                r"row 1 \(line 1\), column 'target': expected text.*quotes",
            ),
            (
                '{"prompt": "A", "target": {"str": "b"}}',
                r"row 1 \(line 1\), column 'target': expected text",
            ),
            ('{"prompt": "A", "target": [[]]}', "column 'target' is missing or empty"),
            (b'{"prompt": "\xe9", "target": "b"}', "line 1: byte 0xe9 .*encoding='cp1252'"),
        ],
    )
    def test_a_json_file_is_refused_by_file_line_and_remedy(self, read_json, content, message):
        with pytest.raises(EditError, match=f"facts.jsonl.*{message}"):
            read_json(content)


class TestDataFrame:
    @pytest.mark.parametrize(
        ("column", "said"),
        [
            ([1963, 7], "1963"),
            ([1963, None], "1963"),
            (pd.array([1963, None], dtype="Int64"), "1963"),
            ([0.5, None], "0.5"),
            ([1e300, None], "1e+300"),
            (np.array([0.1, 1], dtype="float32"), "0.1"),
            ([True, False], "True"),
            (pd.to_datetime(["2024-05-01", None]), "2024-05-01"),
            (pd.to_datetime(["2024-05-01 13:30", None]), "2024-05-01 13:30:00"),
            ([datetime.date(2024, 5, 1), None], "2024-05-01"),
            (pd.Categorical(["Ann", None]), "Ann"),
            ([np.int64(3), "x"], "3"),
            (["NA", "x"], "NA"),
        ],
    )
    def test_numbers_and_dates_are_said_as_one_writes_them(self, column, said):
        frame = pd.DataFrame({"prompt": ["A is", "B is"], "target": column}).head(1)
        assert datasets.from_dataframe(frame).edits[0].target == said

    @pytest.mark.parametrize("gap", [None, float("nan"), pd.NaT, pd.NA, "", np.float32("nan")])
    def test_gaps_of_every_kind_are_left_out(self, gap):
        frame = pd.DataFrame({"prompt": ["A is"], "target": ["b"], "date": [gap], "near": [gap]})
        edit = datasets.from_dataframe(frame).edits[0]
        assert (edit.date, edit.locality) == (None, ())

    def test_lists_in_cells_are_lists_of_texts(self):
        frame = pd.DataFrame({"prompt": ["A is"], "target": [np.array(["b", "c"], dtype=object)]})
        assert datasets.from_dataframe(frame).edits[0].answers == ("b", "c")

    def test_a_missing_target_is_named_by_its_row(self):
        frame = pd.DataFrame({"prompt": ["A is", "B is"], "target": [3, None]})
        with pytest.raises(EditError, match="row 2: column 'target' is missing"):
            datasets.from_dataframe(frame)

    def test_two_columns_of_a_name_and_an_id_twice_are_refused(self):
        frame = pd.DataFrame([["A is", "b", "c"]], columns=["prompt", "target", "target"])
        with pytest.raises(EditError, match="DataFrame: 2 columns are called 'target'"):
            datasets.from_dataframe(frame)
        frame = pd.DataFrame({"id": [1, 1], "prompt": ["A is", "B is"], "target": ["b", "c"]})
        with pytest.raises(EditError, match="row 2, column 'id': '1' is already the id of row 1"):
            datasets.from_dataframe(frame)


def test_records_that_are_no_dicts_are_refused_by_their_row():
    with pytest.raises(EditError, match="row 1: expected a dict .* got str"):
        datasets.from_records(["The capital of Gemland is Wilport"])


def test_a_blank_rephrase_or_half_a_character_is_named_by_its_row():
    with pytest.raises(EditError, match="row 1: .*half a character"):
        datasets.from_records([{"prompt": "A is", "target": "b", "rephrases": ["\ud800"]}])
