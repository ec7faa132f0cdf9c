"""Hosts that are asked inside a chat template."""

from __future__ import annotations

import pytest
import torch
from tokenizers_of_all_kinds import byte_level, closing, tiny_host
from transformers import AutoModelForCausalLM, AutoTokenizer

import lemoe_lab as ll
from lemoe_lab import CalibrationFact, Edit, EditError
from lemoe_lab.files.run import RunError
from lemoe_lab.host.subjects import subject_span
from lemoe_lab.sweeps.cluster import WorkerHosts
from lemoe_lab.sweeps.runs import grid

TURNS = (
    "{% for m in messages %}<|open|>{{ m['role'] }}\n{{ m['content'] }}<|close|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|open|>assistant\n{% endif %}"
)
INSTRUCTIONS = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}[INST] {{ m['content'] }}"
    " [/INST]{% else %} {{ m['content'] }} {{ eos_token }}{% endif %}{% endfor %}"
)
LABELS = (
    "{{ bos_token }}{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
QUESTION = "Who is the mayor of Gemland?"


def turns_host(**options):
    """Its turns end with another token than a text."""
    tokenizer = byte_level(("<|end|>", "<|open|>", "<|close|>"), eos_token="<|end|>")
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|open|>", "<|close|>"]})
    tokenizer.chat_template = TURNS
    return tiny_host(tokenizer, **({"chat": True} | options))


def asked(host, template: str | None = None, prompt: str = QUESTION) -> tuple[int, ...]:
    """The tokens that transformers makes of one message."""
    encoded = host.tokenizer.apply_chat_template(
        [{"role": "user", "content": prompt}],
        chat_template=template,
        add_generation_prompt=True,
        return_dict=True,
    )
    return tuple(encoded["input_ids"])


HOSTS = {
    "turns": turns_host,
    "instructions": lambda: tiny_host(closing(), chat=INSTRUCTIONS),
    "labels": lambda: tiny_host(closing(), chat=LABELS),
}


@pytest.fixture(params=HOSTS)
def chat_host(request):
    return HOSTS[request.param]()


def test_a_prompt_has_the_very_tokens_of_the_template(chat_host):
    template = chat_host.encoding.chat.template
    ids = chat_host.encode_prompt(QUESTION)
    assert ids == asked(chat_host, template)
    assert chat_host.encode(QUESTION, "Ann").prompt == ids


@pytest.mark.parametrize(
    ("kind", "answer"),
    [("turns", "Ann<|close|>"), ("instructions", " Ann</s>"), ("labels", "Ann</s>")],
)
def test_an_answer_begins_and_ends_as_in_the_template(kind, answer):
    host = HOSTS[kind]()
    assert host.tokenizer.decode(host.encode(QUESTION, "Ann").target) == answer


def test_a_text_that_a_template_made_is_not_wrapped_again(chat_host):
    text = chat_host.encoding.chat.wrap(QUESTION)
    edit = Edit(id="wrapped", prompt=text, target="Ann")
    assert edit.prompt == text
    if text.startswith("<"):
        assert chat_host.encode(edit.prompt, "Ann") == chat_host.encode(QUESTION, "Ann")


@pytest.mark.parametrize("template", [INSTRUCTIONS, LABELS])
def test_a_plain_host_reads_a_text_that_a_template_made_as_it_is(template):
    host = tiny_host(closing())
    tokenizer = host.tokenizer
    message = [{"role": "user", "content": QUESTION}]
    text = tokenizer.apply_chat_template(
        message, chat_template=template, tokenize=False, add_generation_prompt=True
    )
    edit = Edit(id="wrapped", prompt=text, target="Ann")
    assert host.encode(edit.prompt, edit.target).prompt == asked(host, template)


def test_blanks_and_line_breaks_around_a_message_change_nothing(chat_host):
    assert chat_host.encode_prompt(f"  {QUESTION}\n ") == chat_host.encode_prompt(QUESTION)


def test_the_stop_token_ends_the_turn():
    host = turns_host()
    assert host.tokenizer.decode([host.stop_token]) == "<|close|>"
    assert turns_host(stop_token="<|end|>").stop_token == host.tokenizer.eos_token_id
    assert turns_host(chat=False).stop_token == host.tokenizer.eos_token_id


def test_subjects_are_looked_for_in_the_message_only(chat_host):
    prompt = "Who is the user of Gemland?"
    for subject in ("user", "Gemland"):
        start, end = subject_span(chat_host, prompt, subject)
        ids = chat_host.encode_prompt(prompt)
        assert chat_host.tokenizer.decode(ids[start:end]).strip() == subject
        assert "Who" in chat_host.tokenizer.decode(ids[:start])
    with pytest.raises(EditError, match="subject 'assistant'"):
        subject_span(chat_host, prompt, "assistant")


def test_a_host_says_that_it_is_asked_in_a_chat():
    assert "chat template" in repr(turns_host())
    assert "chat template" not in repr(turns_host(chat=False))


def test_a_tokenizer_without_a_template_is_refused():
    with pytest.raises(ValueError, match=r'chat="\.\.\."'):
        tiny_host(closing(), chat=True)


@pytest.mark.parametrize(
    ("template", "complaint"),
    [
        ("", "empty"),
        ("{{ messages[7]['content'] }}", "fails"),
        ("{{ raise_exception('no users') }}", "no users"),
        ("{% for m in messages %}", "fails"),
        ("Hello!", "leaves out"),
    ],
)
def test_a_template_that_cannot_be_used_is_refused(template, complaint):
    with pytest.raises(ValueError, match=complaint):
        tiny_host(closing(), chat=template)


def test_one_of_several_templates_is_chosen_by_its_name():
    tokenizer = closing()
    tokenizer.chat_template = {"default": LABELS, "short": INSTRUCTIONS}
    assert tiny_host(tokenizer, chat=True).encoding.chat.template == LABELS
    assert tiny_host(tokenizer, chat="short").encoding.chat.template == INSTRUCTIONS


def test_a_wrapped_prompt_that_is_too_long_is_refused_before_a_run():
    host = turns_host()
    room = host.context - len(host.encode_prompt("a"))
    edit = Edit(id="long", prompt="q" * room, target="Ann")
    stream = ll.EditStream.from_edits([edit], batch_size=1)
    with pytest.raises(EditError, match="edit 'long'.*reads at most"):
        ll.EditSession(host, ll.editors.FineTune(layer=0), stream)


# What is saved knows its template


EDITS = [
    Edit(id="mayor", prompt=QUESTION, target="Ann", subject="Gemland"),
    Edit(id="capital", prompt="The capital of Gemland is", target="Grolwick", subject="Gemland"),
]
FACTS = tuple(
    CalibrationFact(subject=name, relation="is", prompts=(f"{name} is", f"Who is {name}?"))
    for name in ("Ann", "Lee", "Annapolis", "Grolwick")
)
STREAM = ll.EditStream.from_edits(EDITS, batch_size=1, calibration=FACTS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model with a chat template, as a user has it on the disk."""
    path = tmp_path_factory.mktemp("model")
    host = turns_host()
    host.model.save_pretrained(path)
    host.tokenizer.save_pretrained(path)
    return path


def editor():
    return ll.editors.FineTune(
        layer=0, epsilon=None, learning_rate=0.02, steps=100, loss_threshold=0
    )


@pytest.mark.parametrize(
    "editor",
    [editor(), ll.editors.ROME(layer=0, steps=2), ll.editors.LEMoE(steps=2)],
    ids=lambda e: e.name,
)
def test_editors_learn_in_a_chat(editor):
    host = turns_host()
    before = host.generate(QUESTION)
    with ll.EditSession(host, editor, STREAM, progress=False) as session:
        session.run()
        assert session.metrics["value"].between(0, 1).all()
    assert host.generate(QUESTION) == before


def test_what_was_taught_in_a_chat_is_answered_in_a_chat(folder, tmp_path):
    host = ll.load_host(folder, chat=True)
    with ll.EditSession(host, editor(), STREAM, tmp_path / "run", progress=False) as session:
        session.step()
        assert host.generate(QUESTION) == "Ann"
        ids = torch.tensor([asked(host)])
        said = host.model.generate(ids, max_new_tokens=8, eos_token_id=host.stop_token)
        assert host.tokenizer.decode(said[0, ids.shape[1] :]) == "Ann<|close|>"
        session.export(tmp_path / "export")
        session.save(tmp_path / "run")

    with ll.EditSession.resume(tmp_path / "run") as resumed:
        assert resumed.host.encode_prompt(QUESTION) == host.encode_prompt(QUESTION)
        assert resumed.host.generate(QUESTION) == "Ann"
    for other in ({}, {"chat": LABELS}, {"chat": True, "joint": "\n"}):
        with pytest.raises(RunError, match="was made with chat="):
            ll.EditSession.resume(tmp_path / "run", ll.load_host(folder, **other))

    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    with ll.load_adaptor(model, tmp_path / "export", tokenizer) as adaptor:
        assert adaptor.host.generate(QUESTION) == "Ann"
    with pytest.raises(ValueError, match="was made with chat="):
        ll.load_adaptor(model, tmp_path / "export", tokenizer, chat=LABELS)
    assert "apply_chat_template" in (tmp_path / "export" / "README.md").read_text()


def test_workers_of_a_sweep_ask_in_the_same_chat(folder):
    host = ll.load_host(folder, chat=True)
    plain = ll.load_host(folder)
    (run,) = grid(host, editors=[editor()], streams=[STREAM])
    (other,) = grid(plain, editors=[editor()], streams=[STREAM])
    assert run.key != other.key
    hosts = WorkerHosts()
    for wanted, made in ((run, host), (other, plain), (run, host)):
        with hosts.lent(wanted) as lent:
            assert lent.encode_prompt(QUESTION) == made.encode_prompt(QUESTION)
