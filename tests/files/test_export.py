"""Exports: what others get in the folder, and that it answers on their model as it did here."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
import yaml
from helpers import UNRELATED, digest, logits, prompts_of, same, spoil, traces
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline

import lemoe_lab as ll
from lemoe_lab import EditError, EditSession, RunError, load_adaptor, metrics
from lemoe_lab.answers import first_sentence
from lemoe_lab.files.export import measured
from lemoe_lab.host.identity import number_of, prompt_numbers

EDITORS: dict[str, Callable[[], ll.editors.Editor]] = {
    "LEMoE scoped": lambda: ll.editors.LEMoE(steps=25),
    "LEMoE KV anchor": lambda: ll.editors.preset("LEMoE KV anchor", steps=25),
    "LEMoE one expert": lambda: ll.editors.LEMoE(insert=False, steps=5),
    "LEMoE low rank": lambda: ll.editors.LEMoE(expert_rank=4, steps=5),
    "MoE adaptor": lambda: ll.editors.MoEAdaptor(steps=10),
    "GRACE": lambda: ll.editors.GRACE(steps=10),
    "DEFER": lambda: ll.editors.DEFER(steps=5),
    "WISE": lambda: ll.editors.WISE(steps=5, irrelevant=40),
    "FineTune": lambda: ll.editors.FineTune(steps=5),
    "LocFT": lambda: ll.editors.LocFT(passes=2),
    "AlphaEdit": lambda: ll.editors.AlphaEdit(text_tokens=500, steps=3),
    "MEND": lambda: ll.editors.MEND(training_steps=1, training_edits=2),
}
MAIN = ("LEMoE scoped", "LEMoE KV anchor", "MoE adaptor", "GRACE", "FineTune")

FRESH = """
import json, sys
from transformers import AutoModelForCausalLM, AutoTokenizer
from lemoe_lab import load_adaptor
base, folder, *prompts = sys.argv[1:]
model = AutoModelForCausalLM.from_pretrained(base)
tokenizer = AutoTokenizer.from_pretrained(base)
with load_adaptor(model, folder):
    for prompt in prompts:
        ids = tokenizer(prompt, return_tensors="pt")
        answer = model.generate(**ids, max_new_tokens=24, do_sample=False)
        ids = answer[0, ids["input_ids"].shape[1]:]
        print(json.dumps(tokenizer.decode(ids, skip_special_tokens=True)))
"""


@dataclass(frozen=True)
class Exported:
    """A folder, and what the session's host said when it was written."""

    folder: Path
    answers: list[str]
    logits: list[torch.Tensor]
    sampled: torch.Tensor
    metrics: pd.DataFrame


@pytest.fixture(scope="session")
def rich(stream):
    """Two batches of three, with little to calibrate on: there are many editors."""
    small = stream.model_copy(update={"calibration": stream.calibration[::3]})
    return small.with_groups([batch.edits[:3] for batch in stream.batches[:2]])


@pytest.fixture(scope="session")
def bare(rich):
    """The same with nothing to measure but reliability."""
    nothing = {"rephrases": (), "locality": ()}
    groups = [[edit.model_copy(update=nothing) for edit in batch] for batch in rich]
    return rich.with_groups(groups)


@pytest.fixture(scope="session")
def asked(rich) -> list[str]:
    """Prompts, rewordings and unrelated text, of different lengths."""
    rephrases = [edit.rephrases[-1].prompt for edit in rich.edits[:3]]
    return prompts_of(rich) + rephrases + UNRELATED


@pytest.fixture(scope="module")
def exported(host, bare, asked, tmp_path_factory) -> Callable[[str], Exported]:
    """The export of an editor, made once."""

    @cache
    def export(editor: str) -> Exported:
        folder = tmp_path_factory.mktemp("exported") / "edits"
        with EditSession(host, EDITORS[editor](), bare, progress=False) as session:
            session.jump(len(bare))
            session.export(folder)
            return Exported(
                folder,
                host.generate(asked),
                logits(host, asked),
                sampled(host.model, host.tokenizer, asked),
                session.metrics,
            )

    return export


@pytest.fixture(scope="module")
def model(host):
    return AutoModelForCausalLM.from_pretrained(host.folder)


@pytest.fixture(scope="module")
def tokenizer(host):
    return AutoTokenizer.from_pretrained(host.folder)


@pytest.fixture
def copied(exported, tmp_path) -> Path:
    """An export to do harm to."""
    return Path(shutil.copytree(exported("LEMoE scoped").folder, tmp_path / "copied"))


def sampled(model, tokenizer, prompts: list[str]) -> torch.Tensor:
    """Token ids (B, L) of a padded batch and its continuations, drawn at random."""
    torch.manual_seed(0)
    inputs = tokenizer(prompts, return_tensors="pt", padding=True, padding_side="left")
    return model.generate(**inputs, max_new_tokens=8, do_sample=True, temperature=1.5)


def everything(model) -> list:
    """Modules, hooks, modes and bytes of a model."""
    trainable = [parameter.requires_grad for parameter in model.parameters()]
    return [*traces(SimpleNamespace(model=model)), model.training, trainable, digest(model)]


# Answers


@pytest.mark.parametrize("editor", EDITORS)
def test_loaded_edits_give_every_logit_of_the_session(exported, model, asked, editor):
    expected = exported(editor)
    with load_adaptor(model, expected.folder) as adaptor:
        assert same(logits(adaptor.host, asked), expected.logits)


@pytest.mark.parametrize("editor", EDITORS)
def test_detached_model_is_as_before(exported, host, model, asked, editor):
    plain = SimpleNamespace(model=model, encode_prompt=host.encode_prompt)
    asked = asked[-3:]
    before = everything(model)
    adaptor = load_adaptor(model, exported(editor).folder)
    assert everything(model) != before
    adaptor.detach()
    adaptor.detach()
    assert everything(model) == before
    assert same(logits(plain, asked), logits(host, asked))


@pytest.mark.parametrize("editor", MAIN)
def test_padded_batches_are_generated_as_in_the_session(exported, model, tokenizer, asked, editor):
    expected = exported(editor)
    inputs = tokenizer(asked, return_tensors="pt", padding=True, padding_side="left")
    with load_adaptor(model, expected.folder):
        ids = model.generate(**inputs, max_new_tokens=24, do_sample=False)
        drawn = sampled(model, tokenizer, asked)
    texts = tokenizer.batch_decode(ids[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    assert list(map(first_sentence, texts)) == expected.answers
    assert torch.equal(drawn, expected.sampled)


@pytest.mark.parametrize("editor", ["LEMoE scoped", "GRACE"])
def test_pipelines_answer_edited(exported, model, tokenizer, asked, editor):
    expected = exported(editor)
    with load_adaptor(model, expected.folder):
        ask = pipeline("text-generation", model=model, tokenizer=tokenizer)
        said = ask(asked, batch_size=4, do_sample=False, max_new_tokens=24, return_full_text=False)
    assert [first_sentence(row[0]["generated_text"]) for row in said] == expected.answers


def test_learned_edits_are_said_after_loading(exported, model, bare):
    with load_adaptor(model, exported("LEMoE scoped").folder) as adaptor:
        assert adaptor.host.generate(prompts_of(bare)) == [edit.target for edit in bare.edits]


def test_fresh_process_needs_transformers_and_the_folder_only(exported, host, asked):
    expected = exported("LEMoE scoped")
    command = [sys.executable, "-c", FRESH, str(host.folder), str(expected.folder), *asked]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert [
        first_sentence(json.loads(line)) for line in done.stdout.splitlines()
    ] == expected.answers


def test_loaded_adaptor_says_what_it_is(exported, model):
    with load_adaptor(model, exported("LEMoE scoped").folder) as adaptor:
        said = repr(adaptor)
        assert adaptor.model is model
    assert (
        said == "LoadedAdaptor(LEMoE scoped on almanac, layer 4: 6 edits in 2 batches, 2 experts)"
    )
    assert "detached" in repr(adaptor)


# Refusals


def test_another_base_model_is_refused_and_both_are_named(exported, host):
    other = AutoModelForCausalLM.from_pretrained(host.folder)
    with torch.no_grad():
        other.model.layers[0].mlp.up_proj.weight[0, 0] += 1
    other.name_or_path = "someone/else"
    before = everything(other)
    with pytest.raises(ValueError, match=r"'almanac' .*'someone/else'"):
        load_adaptor(other, exported("LEMoE scoped").folder, host.tokenizer)
    assert everything(other) == before


def test_another_precision_is_refused_with_the_right_one(exported, exact_host):
    with pytest.raises(ValueError, match="dtype='float32'"):
        load_adaptor(exact_host.model, exported("GRACE").folder)


@pytest.mark.parametrize("second", ["LEMoE scoped", "FineTune"])
@pytest.mark.parametrize("first", ["LEMoE scoped", "GRACE", "WISE", "FineTune"])
def test_model_that_carries_edits_is_refused(exported, model, first, second):
    with (
        load_adaptor(model, exported(first).folder),
        pytest.raises(RuntimeError, match="carries edits already"),
    ):
        load_adaptor(model, exported(second).folder)


def test_host_of_an_open_session_is_refused(exported, host, bare):
    folder = exported("GRACE").folder
    with (
        EditSession(host, EDITORS["LEMoE scoped"](), bare, progress=False),
        pytest.raises(RuntimeError, match="close the session"),
    ):
        load_adaptor(host.model, folder)


def test_host_in_the_place_of_its_model_is_a_clear_error(exported, host):
    with pytest.raises(TypeError, match="host.model"):
        load_adaptor(host, exported("GRACE").folder)


def test_model_without_a_tokenizer_needs_one(exported, host):
    lone = AutoModelForCausalLM.from_pretrained(host.folder)
    lone.name_or_path = ""
    with pytest.raises(ValueError, match="tokenizer="):
        load_adaptor(lone, exported("GRACE").folder)
    with load_adaptor(lone, exported("GRACE").folder, host.tokenizer) as adaptor:
        assert adaptor.host.generate(UNRELATED[0]) == host.generate(UNRELATED[0])


@pytest.mark.parametrize("damage", ["truncated", "altered", "missing"])
@pytest.mark.parametrize("name", ["adapter_model.safetensors", "adapter_config.json"])
def test_damaged_file_is_named(copied, model, name, damage):
    before = everything(model)
    spoil(copied / name, damage)
    with pytest.raises(RunError, match=name):
        load_adaptor(model, copied)
    assert everything(model) == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format_version": 2}, "format 2"),
        ({"library": "peft"}, "not written by LEMoE Lab"),
        ({"method": "Magic"}, "'Magic'"),
        ({"edits": "many"}, "edits:"),
        ({"settings": {"intermediate": 3}}, "do not fit"),
        ({"settings": {"experts": 3}}, "experts"),
    ],
)
def test_config_that_does_not_fit_is_a_clear_error(copied, model, change, message):
    before = everything(model)
    path = copied / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises((RunError, ValueError), match=message):
        load_adaptor(model, copied)
    assert everything(model) == before


# The folder


def test_folder_has_the_layout_of_an_adapter(exported):
    expected = exported("LEMoE scoped")
    assert {path.name for path in expected.folder.iterdir()} == {
        "adapter_model.safetensors",
        "adapter_config.json",
        "README.md",
    }
    assert not list(expected.folder.parent.glob(".*"))
    config = json.loads((expected.folder / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "almanac"
    assert (config["experts"], config["routing"], config["layer"]) == (2, "scoped", 4)


@pytest.mark.parametrize("editor", EDITORS)
def test_texts_of_edits_stay_behind(exported, bare, editor):
    folder = exported(editor).folder
    texts = [text for edit in bare.edits for text in (edit.prompt, edit.target, edit.subject)]
    texts += [fact.prompts[0] for fact in bare.calibration]
    for path in folder.iterdir():
        content = path.read_bytes()
        assert not [text for text in texts if text.encode() in content]


@pytest.mark.parametrize("editor", ["GRACE", "LEMoE scoped"])
def test_numbers_of_targets_and_prompts_stay_behind(exported, host, bare, editor):
    tensors = load_file(exported(editor).folder / "adapter_model.safetensors")
    labels = {number_of(host.encode(e.prompt, e.target).target) for e in bare.edits}
    labels |= {n for batch in bare for n in prompt_numbers(host, batch).tolist()}
    found = {
        n
        for tensor in tensors.values()
        if tensor.dtype == torch.long
        for n in tensor.flatten().tolist()
    }
    assert not labels & found


@pytest.mark.parametrize("editor", ["FineTune", "LocFT", "AlphaEdit", "MEND"])
def test_weight_editors_export_their_changed_weights_once(exported, host, editor):
    tensors = load_file(exported(editor).folder / "adapter_model.safetensors")
    shapes = {f"weights.{name}": p.shape for name, p in host.model.named_parameters()}
    assert tensors
    assert all(shapes[name] == tensor.shape for name, tensor in tensors.items())


@pytest.mark.parametrize("editor", ["LEMoE one expert", "MoE adaptor", "DEFER"])
def test_what_every_batch_retrains_is_exported_once(exported, editor):
    tensors = load_file(exported(editor).folder / "adapter_model.safetensors")
    kept = [name.partition(".")[2] for name in tensors if "anchors" not in name]
    assert len(kept) == len(set(kept))


def test_earlier_export_is_replaced(exported, host, bare, copied, tmp_path):
    before = (copied / "adapter_model.safetensors").read_bytes()
    with EditSession(host, EDITORS["GRACE"](), bare, progress=False) as session:
        session.step()
        session.export(copied)
    assert (copied / "adapter_model.safetensors").read_bytes() != before
    assert "GRACE" in (copied / "README.md").read_text(encoding="utf-8")
    assert {path.name for path in tmp_path.iterdir()} == {"copied"}


def test_folder_with_other_content_is_left_alone(host, bare, tmp_path):
    """Nor is an adapter of somebody else, whose files have the same names."""
    folder = tmp_path / "mine"
    folder.mkdir()
    with EditSession(host, EDITORS["GRACE"](), bare, progress=False) as session:
        session.step()
        save_file({"mine": torch.ones(1)}, folder / "adapter_model.safetensors")
        for other in ("notes.txt", "adapter_config.json"):
            (folder / other).write_text("{}")
            before = {path.name: path.read_bytes() for path in folder.iterdir()}
            with pytest.raises(RunError, match=f"{folder}.*{other}"):
                session.export(folder)
            assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
            (folder / other).unlink()
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_export_before_the_first_step_is_a_clear_error(host, bare, tmp_path):
    with (
        EditSession(host, EDITORS["GRACE"](), bare, progress=False) as session,
        pytest.raises(EditError, match="no batch is applied"),
    ):
        session.export(tmp_path / "edits")


# The card


def test_card_has_the_front_matter_of_the_hub(exported):
    card = (exported("LEMoE KV anchor").folder / "README.md").read_text(encoding="utf-8")
    front = yaml.safe_load(card.split("---\n")[1])
    assert front["library_name"] == "lemoe_lab"
    assert front["base_model"] == "almanac"
    assert "mixture-of-experts" in front["tags"]


def test_card_tells_what_was_measured(host, rich, tmp_path):
    with EditSession(host, EDITORS["LEMoE scoped"](), rich, progress=False) as session:
        session.run()
        session.export(tmp_path / "edits")
        table = measured(session.metrics, session.steps, rich.superseded)
    card = (tmp_path / "edits" / "README.md").read_text(encoding="utf-8")
    assert set(table.metric) == set(metrics.METRICS)
    for row in table.itertuples():
        start = f"| {row.metric} | {row.group or 'edits'} | {row.scorer} | {row.immediate:.3f} |"
        assert f"{start} {row.immediate_n} | {row.final:.3f} | {row.final_n} |" in card
    assert "6 edits in 2 batches" in card


def test_card_admits_what_was_not_measured(exported):
    card = (exported("GRACE").folder / "README.md").read_text(encoding="utf-8")
    assert "Final values are missing" in card
    assert "| – | – |" in card


def test_final_values_leave_out_edits_that_a_later_one_replaced():
    rows = [
        (step, batch, edit, metric, group, "generated", value)
        for metric, group in (("reliability", ""), ("locality", "near"))
        for step, batch, edit, value in [
            (1, 1, "old", 1.0), (1, 1, "kept", 0.0), (2, 2, "new", 1.0),
            (2, 1, "old", 0.0), (2, 1, "kept", 1.0),
        ]
    ]  # fmt: skip
    table = measured(pd.DataFrame(rows, columns=metrics.COLUMNS), 2, {"old": 2})
    reliability, locality = table.itertuples()
    assert (reliability.final, reliability.final_n) == (1.0, 2)
    assert (reliability.immediate, reliability.immediate_n) == (pytest.approx(2 / 3), 3)
    assert (locality.final, locality.final_n) == (pytest.approx(2 / 3), 3)


def test_path_of_a_local_model_stays_behind(host, bare, tmp_path):
    base = tmp_path / "my-model"
    host.model.save_pretrained(base)
    host.tokenizer.save_pretrained(base)
    local = ll.load_host(base)
    with EditSession(local, EDITORS["GRACE"](), bare, progress=False) as session:
        session.step()
        session.export(tmp_path / "edits")
    for path in (tmp_path / "edits").iterdir():
        assert str(tmp_path).encode() not in path.read_bytes()
    config = json.loads((tmp_path / "edits" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "my-model"
