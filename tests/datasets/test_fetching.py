"""Published files: downloaded once, checked always, and nothing of the user's is lost."""

import hashlib
import json
import shutil
from pathlib import Path

import huggingface_hub
import pytest
from pydantic import ValidationError

from lemoe_lab import datasets
from lemoe_lab.datasets import FetchError, Source, fetch
from lemoe_lab.datasets.fetching import SOURCES, download_folder

RECORDS = json.dumps([{"prompt": f"a {i}", "target_new": f"b {i}"} for i in range(10)]).encode()
SHA256 = hashlib.sha256(RECORDS).hexdigest()
SOURCE = Source(repository="someone/facts", file="data/facts.json", revision="abc", sha256=SHA256)


@pytest.fixture
def hub(monkeypatch):
    """A hub that has one file; the list holds what was asked of it."""
    asked = []

    def download(repository, file, *, repo_type, revision, local_dir):
        asked.append((repository, file, repo_type, revision))
        path = Path(local_dir) / file
        path.parent.mkdir(parents=True)
        path.write_bytes(RECORDS)
        return str(path)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    return asked


def test_the_published_files_are_pinned_to_a_commit_and_a_checksum():
    for source in SOURCES.values():
        assert len(source.revision) == 40
        assert len(source.sha256) == 64


def test_a_file_is_taken_from_its_repository_at_its_revision(hub, tmp_path):
    path = fetch("facts", tmp_path, SOURCE)
    assert hub == [("someone/facts", "data/facts.json", "dataset", "abc")]
    assert path.read_bytes() == RECORDS


def test_a_loader_reads_what_was_fetched(hub, tmp_path):
    stream = datasets.zsre(fetch("facts", tmp_path, SOURCE))
    assert len(stream.edits) == 8 and stream.edits[0].target.startswith("b ")


def test_a_file_that_is_there_is_not_downloaded_again(hub, tmp_path):
    assert fetch("facts", tmp_path, SOURCE) == fetch("facts", tmp_path, SOURCE)
    assert len(hub) == 1


def test_a_file_that_was_put_there_by_hand_is_used(hub, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "facts.json").write_bytes(RECORDS)
    assert fetch("facts", tmp_path, SOURCE).read_bytes() == RECORDS
    assert hub == []


def test_offline_the_error_says_which_file_to_put_where(tmp_path):
    with pytest.raises(FetchError) as caught:
        fetch("hallucination", tmp_path)
    message, source = str(caught.value), SOURCES["hallucination"]
    place = tmp_path / source.file
    for part in (source.repository, source.file, source.revision, str(place), "by hand"):
        assert part in message
    assert not place.exists()


def test_another_file_than_the_pinned_one_is_refused_and_kept(hub, tmp_path):
    pinned = SOURCE.model_copy(update={"sha256": "0" * 64})
    with pytest.raises(FetchError, match=f"{SHA256}.*{'0' * 64}.*kept"):
        fetch("facts", tmp_path, pinned)
    assert (tmp_path / "data" / "facts.json").read_bytes() == RECORDS


def test_a_file_without_a_checksum_must_stay_as_it_was_first_seen(hub, tmp_path):
    trusting = SOURCE.model_copy(update={"sha256": None})
    path = fetch("facts", tmp_path, trusting)
    record = path.with_name("facts.json.sha256")
    assert record.read_text() == f"{SHA256}  facts.json\n"
    assert fetch("facts", tmp_path, trusting) == path
    path.write_bytes(b"[]")
    with pytest.raises(FetchError, match=f"facts.json.sha256 says {SHA256}"):
        fetch("facts", tmp_path, trusting)
    assert path.read_bytes() == b"[]"


def test_what_a_broken_download_said_is_passed_on(monkeypatch, tmp_path):
    def broken(*_, **__):
        raise TimeoutError("no answer in 10 s")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", broken)
    with pytest.raises(FetchError, match="no answer in 10 s.*by hand"):
        fetch("facts", tmp_path, SOURCE)


def test_an_unknown_name_is_answered_with_the_known_ones(tmp_path):
    with pytest.raises(FetchError, match="'nq'.*zsre, counterfact, hallucination"):
        fetch("nq", tmp_path)


@pytest.mark.parametrize("name", SOURCES)
def test_every_known_data_set_has_a_loader_and_a_checksum(name):
    assert SOURCES[name].sha256
    assert callable(getattr(datasets, name))


@pytest.mark.parametrize(
    "wrong", [{"repository": "facts"}, {"file": "/etc/facts"}, {"sha256": "beef"}, {"url": "x"}]
)
def test_an_impossible_source_fails_at_construction(wrong):
    with pytest.raises(ValidationError):
        Source(**SOURCE.model_dump() | wrong)


def test_files_are_kept_in_the_users_cache(monkeypatch, hub, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert fetch("facts", source=SOURCE).is_relative_to(tmp_path / "lemoe_lab")
    shutil.rmtree(tmp_path / "lemoe_lab")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert download_folder() == Path.home() / ".cache" / "lemoe_lab"
