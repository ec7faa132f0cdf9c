"""The data sets that the papers edit, from their published JSON files.

    stream = zsre("zsre_mend_eval.json", edits=1000, batch_size=30, seed=0)
    stream = counterfact("counterfact-edit.json")
    stream = hallucination("hallucination-edit.json")

A share of the records is held back for calibrating routers: they are neither edited nor asked
about. The records are drawn at random by ``seed``, the same on every machine.
"""

from __future__ import annotations

import ast
import json
import random
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..edits import (
    CalibrationFact,
    Edit,
    EditError,
    EditStream,
    LocalityGroup,
    LocalityPrompt,
    Rephrase,
)

HELD_BACK = 0.2  # share of the records that calibrate routers
NATURAL_QUESTION = "nq question: "
ANY = "any"  # the relation of facts whose file names none

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Columns:
    """What a file of questions calls its columns; ``locality_prefix`` is cut off its prompts."""

    prompt: str
    target: str
    rephrase: str
    locality: str
    locality_answer: str
    old_answer: str
    locality_prefix: str = ""

    def reader(
        self, rephrase_group: str, locality_group: LocalityGroup
    ) -> Callable[[Record, str], Edit]:
        """What makes an edit of a record and an id."""

        def edit(record: Record, name: str) -> Edit:
            prompt, target = _text(record, self.prompt), _text(record, self.target)
            rephrase = Rephrase(prompt=_text(record, self.rephrase), group=rephrase_group)
            locality = LocalityPrompt(
                prompt=_text(record, self.locality).removeprefix(self.locality_prefix),
                group=locality_group,
                target=_optional(record, self.locality_answer),
            )
            return Edit(
                id=name,
                prompt=prompt,
                target=target,
                rephrases=(rephrase,),
                locality=(locality,),
                old_answer=_other(_optional(record, self.old_answer), target),
                subject=_optional(record, "subject"),
            )

        return edit

    def fact(self, record: Record) -> CalibrationFact:
        """A record as a fact to calibrate routers with."""
        prompts = _text(record, self.prompt), _text(record, self.rephrase)
        subject = _optional(record, "subject") or prompts[0]
        return CalibrationFact(subject=subject, relation=ANY, prompts=prompts)


def zsre(
    path: str | Path, edits: int | None = None, batch_size: int = 30, seed: int = 0
) -> EditStream:
    """Questions of ZsRE (Levy et al. 2017, in the format of Mitchell et al., arXiv 2110.11309).

    Needs ``src``, ``alt``, ``rephrase`` and ``loc``; ``loc_ans``, ``answers``, ``subject`` are
    read if they are there. The locality prompt is a natural question about something else (group
    ``far``), scored with ``loc_ans`` fed in.
    """

    columns = Columns(
        prompt="src",
        target="alt",
        rephrase="rephrase",
        locality="loc",
        locality_answer="loc_ans",
        old_answer="answers",
        locality_prefix=NATURAL_QUESTION,
    )
    edit = columns.reader(rephrase_group="light", locality_group="far")
    return _stream(path, "zsre", edit, columns.fact, edits, batch_size, seed)


def counterfact(
    path: str | Path, edits: int | None = None, batch_size: int = 30, seed: int = 0
) -> EditStream:
    """Counterfactual statements (Meng et al., arXiv 2202.05262, flat format).

    Needs ``prompt``, ``target_new``, ``rephrase_prompt`` and ``locality_prompt``, the same
    question about another subject (group ``near``); ``locality_ground_truth``, ``ground_truth``
    and ``subject`` are read if they are there.
    """

    columns = Columns(
        prompt="prompt",
        target="target_new",
        rephrase="rephrase_prompt",
        locality="locality_prompt",
        locality_answer="locality_ground_truth",
        old_answer="ground_truth",
    )
    edit = columns.reader(rephrase_group="strong", locality_group="near")
    return _stream(path, "counterfact", edit, columns.fact, edits, batch_size, seed)


def hallucination(
    path: str | Path, edits: int | None = None, batch_size: int = 30, seed: int = 0
) -> EditStream:
    """Corrected sentences of WikiBio passages (SelfCheckGPT, arXiv 2303.08896).

    Needs ``prompt`` (the passage so far, up to some hundred words), ``target_new`` (the sentence
    to say), ``locality_prompt`` and ``locality_ground_truth``, neutral text whose perplexity must
    not grow. There are no rephrases. A passage and its second half calibrate routers.
    """

    def edit(record: Record, name: str) -> Edit:
        locality = LocalityPrompt(
            prompt=_text(record, "locality_prompt"),
            group="text",
            target=_text(record, "locality_ground_truth"),
        )
        return Edit(
            id=name,
            prompt=_text(record, "prompt"),
            target=_text(record, "target_new"),
            locality=(locality,),
            subject=_optional(record, "subject"),
        )

    def fact(record: Record) -> CalibrationFact:
        prompt = _text(record, "prompt")
        words = prompt.split()
        return CalibrationFact(
            subject=_optional(record, "subject") or prompt,
            relation=ANY,
            prompts=(prompt, " ".join(words[len(words) // 2 :])),
        )

    return _stream(path, "hallucination", edit, fact, edits, batch_size, seed)


def _stream(
    path: str | Path,
    name: str,
    edit: Callable[[Record, str], Edit],
    fact: Callable[[Record], CalibrationFact],
    edits: int | None,
    batch_size: int,
    seed: int,
) -> EditStream:
    records = _read(Path(path))
    order = random.Random(f"{seed}/{name}").sample(range(len(records)), len(records))
    held_back = round(len(records) * HELD_BACK)
    available = order[held_back:]
    count = len(available) if edits is None else edits
    if not 1 <= count <= len(available):
        raise EditError(
            f"{path} has {len(records)} records; {held_back} are held back for calibration, so it "
            f"gives 1 to {len(available)} edits, not {count}"
        )

    def made(index: int, make: Callable[[Record], Any]) -> Any:
        try:
            return make(records[index])
        except EditError as error:
            raise EditError(f"{path}, record {index}: {error}") from None

    def named(index: int) -> Edit:
        return made(index, lambda record: edit(record, f"{name}/{index}"))

    return EditStream.from_edits(
        [named(index) for index in available[:count]],
        batch_size,
        name=name,
        seed=seed,
        order="random",
        calibration=tuple(made(index, fact) for index in order[:held_back]),
    )


def _read(path: Path) -> Sequence[Record]:
    try:
        records = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise EditError(
            f"{path} does not exist; download the data set's JSON file and pass where it lies"
        ) from None
    except ValueError as error:
        raise EditError(f"{path} is no JSON file: {error}") from None
    if not isinstance(records, list) or not all(isinstance(row, dict) for row in records):
        raise EditError(f"{path} must hold a list of records, not {type(records).__name__}")
    return records


def _text(record: Record, column: str) -> str:
    text = _optional(record, column)
    if text is None:
        raise EditError(
            f"column {column!r} is missing or empty; the record has {', '.join(record)}"
        )
    return text


def _optional(record: Record, column: str) -> str | None:
    """A text; of a list, also one that was written as a string, the first text."""
    value = record.get(column)
    if isinstance(value, str) and value.startswith("[") and value.endswith("]"):
        with suppress(ValueError, SyntaxError):
            value = ast.literal_eval(value)
    if isinstance(value, list):
        value = value[0] if value else None
    if value is None:
        return None
    text = str(value).strip()
    return text or None


def _other(answer: str | None, target: str) -> str | None:
    """The old answer, unless the file calls the target itself the old answer."""
    return None if answer is None or answer.lower() == target.lower() else answer
