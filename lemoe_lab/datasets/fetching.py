"""The published files that the loaders read, from the Hugging Face hub or from where you put them.

    stream = zsre(fetch("zsre"))
    path = fetch("zsre", source=Source(repository="me/my-zsre", file="zsre.json"))

A file that is there already is never downloaded again, so everything works offline once it is.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field


class FetchError(RuntimeError):
    """A file that could not be downloaded, or is not the one that was expected."""


class Source(BaseModel):
    """One file of a data set on the Hugging Face hub.

    Parameters
    ----------
    repository, file
        Id of the data set's repository, and the file's path inside it.
    revision
        The commit to take it from; None: the newest.
    sha256
        What the file must hash to. None trusts the first download: its hash is written to
        ``<file>.sha256`` beside it, and holds from then on.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    repository: str = Field(pattern=r"^[\w.-]+/[\w.-]+$")
    file: str = Field(pattern=r"^[\w-][^\\]*$")
    revision: str | None = None
    sha256: str | None = Field(None, pattern=r"^[0-9a-f]{64}$")


KNOWEDIT = "c3a6bccb5fc37a59dea3197ac36526d44606acd0"
COUNTERFACT = "c01c413f856ee38f5c080c9fc5e87aff478e2ff9"

SOURCES = {
    "zsre": Source(
        repository="zjunlp/KnowEdit",
        file="benchmark/ZsRE/ZsRE-test-all.json",
        revision=KNOWEDIT,
        sha256="0e0214dda853a906ef02bef58c7ce2978af5a962e91fc4a10827e0125459905c",
    ),
    "counterfact": Source(
        repository="azhx/counterfact",
        file="data/test-00000-of-00001-bacb83500fca49a9.parquet",
        revision=COUNTERFACT,
        sha256="c7b37802e6ae381998dadac86e8fe89e241c29c356f67448a1700227dd7ba22c",
    ),
    "hallucination": Source(
        repository="zjunlp/KnowEdit",
        file="benchmark/WikiBio/wikibio-test-all.json",
        revision=KNOWEDIT,
        sha256="00933f69b47d8281d01f1f4b84f3f266b7482a65a7d74022e660a8a9ca2264a4",
    ),
}


def download_folder() -> Path:
    """Where :func:`fetch` keeps files: ``lemoe_lab`` in ``XDG_CACHE_HOME`` or ``~/.cache``."""
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "lemoe_lab"


def fetch(name: str, folder: str | Path | None = None, source: Source | None = None) -> Path:
    """The file of a published data set, downloaded unless it is there.

    Parameters
    ----------
    name
        ``zsre`` (1,301 records) or ``hallucination`` (WikiBio), both as KnowEdit gives them out
        (arXiv 2401.01286), or ``counterfact`` (the 2,191 test records of Meng et al.). These are
        not the files of every paper: pass the path of yours to the loader to compare with it.
    folder
        Where it lies or is to lie; None: :func:`download_folder`.
    source
        Take this file instead; with it, ``name`` is free and only shown in messages.

    Returns
    -------
    Path
        For the loader of the same name. Checked against ``sha256`` at every call. The revisions
        and checksums in ``SOURCES`` are those that others published for these files, not ours: if
        one is wrong or the file moved, a ``source`` of your own replaces it.

    Raises
    ------
    FetchError
        For an unknown name, if it cannot be downloaded (which file is to be put where by hand),
        or if it hashes to something else; nothing is deleted then.
    """
    if source is None:
        if name not in SOURCES:
            raise FetchError(f"{name!r} is no known data set; known are {', '.join(SOURCES)}")
        source = SOURCES[name]
    folder = download_folder() if folder is None else Path(folder)
    path = folder / source.file
    if not path.exists():
        _download(name, source, folder, path)
    _check(source, path)
    return path


def _download(name: str, source: Source, folder: Path, path: Path) -> None:
    from huggingface_hub import hf_hub_download  # only who fetches needs the hub's client

    try:
        hf_hub_download(
            source.repository,
            source.file,
            repo_type="dataset",
            revision=source.revision,
            local_dir=folder,
        )
    except Exception as error:  # whatever went wrong, the way out is the same
        revision = f" at revision {source.revision}" if source.revision else ""
        raise FetchError(
            f"the data set {name!r} could not be downloaded ({type(error).__name__}: {error}). "
            f"Download {source.file} of the Hugging Face dataset {source.repository}{revision} "
            f"by hand and put it at {path}"
        ) from error


def _check(source: Source, path: Path) -> None:
    """Raise :class:`FetchError` unless the file is the pinned one, or the one first seen."""
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    record = path.with_name(f"{path.name}.sha256")
    expected, pinned_by = source.sha256, "its source"
    if expected is None and record.exists():
        expected, pinned_by = record.read_text(encoding="utf-8")[:64], str(record)
    if expected is None:
        record.write_text(f"{found}  {path.name}\n", encoding="utf-8")
    elif found != expected:
        raise FetchError(
            f"{path} hashes to {found}, but {pinned_by} says {expected}. It is kept as it is: "
            "move it away to download it again, or pass source=Source(...) with another sha256 "
            "if you trust it"
        )
