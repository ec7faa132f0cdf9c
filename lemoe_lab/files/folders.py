"""Files and folders that are at any instant what they were or what they become.

write_atomically(path, lambda temporary: temporary.write_bytes(content))
with replaced(folder) as staging:        # fill it; at the end it takes the folder's place
    ...
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


class RunError(RuntimeError):
    """A run folder that cannot be written or read; the message says what to do."""


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a temporary file, sync it, and rename it to ``path``."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(temporary)
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync_folder(path.parent)
    except Exception as error:
        temporary.unlink(missing_ok=True)
        raise RunError(
            f"could not write {path}: {error}. What was saved before is untouched; free some "
            "space or choose another folder, then save again"
        ) from error


def sync_folder(folder: Path) -> None:
    """Let names in a folder survive a power cut, where the system can promise that."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except PermissionError:  # Windows opens no folders
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def file_hash(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def replaced(folder: Path) -> Iterator[Path]:
    """A new folder that takes the place of ``folder`` when the block ends without an error.

    Killed at any instant, ``folder`` is after :func:`recover` the old one or the new one, whole.

    Raises
    ------
    RunError
        If it cannot be put there; the old folder stays.
    """
    recover(folder)
    staging, spare = _beside(folder, "new"), _beside(folder, "old")
    for leftover in (staging, spare):
        shutil.rmtree(leftover, ignore_errors=True)
    try:
        yield staging
        if folder.exists():
            os.replace(folder, spare)
        os.replace(staging, folder)
        sync_folder(folder.parent)
    except OSError as error:
        with suppress(OSError):  # or whoever looks for the folder next will
            recover(folder)
        raise RunError(
            f"could not write {folder}: {error}. What was there before is untouched; "
            "choose another folder"
        ) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        if folder.exists():
            shutil.rmtree(spare, ignore_errors=True)


def recover(folder: Path) -> None:
    """Bring back a folder that was moved aside when something stopped its replacement."""
    spare = _beside(folder, "old")
    if spare.is_dir() and not folder.exists():
        os.replace(spare, folder)


def _beside(folder: Path, what: str) -> Path:
    return folder.with_name(f".{folder.name}.{what}")
