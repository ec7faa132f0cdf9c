"""The Python calls that lead to the state of a stepper."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ... import datasets
from ...edits import EditError, EditStream
from ..common.choices import AS_GIVEN, KEPT, PLANNERS, keeps_batches

if TYPE_CHECKING:
    from .model import StepperModel

ALMANAC_KINDS = ("update", "new", "mixed")
GIVEN_FIELDS = ("id", "prompt", "target")


def calls(model: StepperModel, stream_file: str = "stream.json") -> str:
    """A script that ends with a session in the same state.

    ``stream_file`` is read where no :func:`almanac_call` makes the stream.
    """
    source, choice, host = almanac_call(model.source), model.choice, model.session.host
    options = host.encoding.options
    if options.get("chat", "") == host.tokenizer.chat_template:
        options["chat"] = True
    arguments = [repr(host.name), *(f"{name}={value!r}" for name, value in options.items())]
    lines = ["import lemoe_lab as ll", "", f"host = ll.load_host({', '.join(arguments)})"]
    if source is None:
        lines.insert(0, "from pathlib import Path\n")
        text = f'Path({stream_file!r}).read_text(encoding="utf-8")'
        source = f"ll.EditStream.model_validate_json({text})"
    lines.append(f"stream = {source}")
    if not keeps_batches(model.source, choice):
        kept = ", ".join(f"{name}=stream.{name}" for name in KEPT)
        regrouped = f"ll.EditStream.from_edits(stream.edits, {choice.batch_size}, {kept})"
        lines.append(f"stream = {regrouped}")
    if choice.planner != AS_GIVEN:
        planner = f"ll.planning.{PLANNERS[choice.planner].__name__}(seed={choice.seed})"
        lines.append(f"stream = {planner}.plan(stream, host)")
    editor = model.specs[choice.editor].code(choice.seed)
    lines.append(f"session = ll.EditSession(host, {editor}, stream)")
    for step, edit in model.added:
        fields = ", ".join(f"{name}={getattr(edit, name)!r}" for name in GIVEN_FIELDS)
        lines.append(f"session.add_batch([ll.Edit({fields})], at={step})")
    lines.append(f"session.jump({model.steps})")
    return "\n".join(lines) + "\n"


def almanac_call(source: EditStream) -> str | None:
    """The call that makes this very stream from the Almanac, if there is one."""
    edits, size = len(source.edits), len(source.batches[0])
    for kind in ALMANAC_KINDS:
        try:
            stream = datasets.almanac(edits, size, source.seed, kind)
        except EditError:
            continue
        if stream.name == source.name and stream == source:
            return (
                f"ll.datasets.almanac(edits={edits}, batch_size={size}, "
                f"seed={source.seed}, kind={kind!r})"
            )
    return None
