"""Edits, batches and streams: what a language model is to learn, and in which order.

    stream = EditStream.from_edits(edits, batch_size=30)
    for batch in stream:
        print(batch.step, [edit.prompt for edit in batch])

Everything here is validated when it is made, immutable afterwards, and knows nothing of torch.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
)

from .answers import normalise
from .joining import without_last_blanks

MADE_BY_A_TEMPLATE = re.compile(r"<[^<>\s]+>")  # chat templates begin like that: <s>, <|user|>
LocalityGroup = Literal["same_subject", "near", "far", "text"]


class EditError(ValueError):
    """An edit, batch or stream that cannot be used; the message names the edit."""


def require_whole(text: str) -> str:
    """The text itself; :class:`EditError` if it holds half a character, which nothing can write."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        half = ascii(text[error.start])
        raise EditError(
            f"holds half a character ({half}, the {error.start + 1}th); read the text anew as UTF-8"
        ) from None
    return text


def _not_blank(text: str) -> str:
    if not text.strip():
        raise ValueError(f"is empty ({text!r}); it needs some text")
    return text


def trimmed_prompt(prompt: str) -> str:
    """A prompt without the blanks around it.

    Line breaks at its end stay, for an answer may begin on a new line, and so does everything in a
    text that a chat template made.
    """
    return prompt if MADE_BY_A_TEMPLATE.match(prompt) else without_last_blanks(prompt.lstrip())


Whole = Annotated[str, AfterValidator(require_whole)]
Text = Annotated[Whole, AfterValidator(_not_blank)]
Prompt = Annotated[Text, AfterValidator(trimmed_prompt)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    def __init__(self, **fields: Any) -> None:
        try:
            super().__init__(**fields)
        except ValidationError as error:
            raise EditError(_complaint(fields.get("id"), error)) from None


class Rephrase(_Frozen):
    """Another way to ask for the new target: ``light`` or ``strong`` rewording."""

    prompt: Prompt
    group: Literal["light", "strong"] = "light"


class LocalityPrompt(_Frozen):
    """A prompt whose answer must stay as it was.

    ``target`` is the text that is scored with teacher forcing; None means the unedited host's own
    greedy answer. For the group ``text`` it is the passage that follows ``prompt``.
    """

    prompt: Prompt
    group: LocalityGroup
    target: Text | None = None


class Edit(_Frozen):
    """One fact to teach: after ``prompt`` the model is to say ``target``.

    ``aliases`` are other answers that are right as well; only ``target`` is trained on.
    ``old_answer`` is what was right before, as far as the data set tells.
    """

    id: Text
    prompt: Prompt
    target: Text
    aliases: tuple[Text, ...] = ()
    rephrases: tuple[Rephrase, ...] = ()
    locality: tuple[LocalityPrompt, ...] = ()
    old_answer: Whole | None = None
    subject: Whole | None = None
    relation: Whole | None = None
    topic: Whole | None = None
    date: Whole | None = None

    @field_validator("target")
    @classmethod
    def _stripped(cls, text: str) -> str:
        return text.strip()

    @property
    def answers(self) -> tuple[str, ...]:
        """Every answer that is right, the target first."""
        return (self.target, *self.aliases)

    def model_post_init(self, _context: object) -> None:
        if self.old_answer is not None and normalise(self.old_answer) == normalise(self.target):
            raise ValueError(
                f"edit {self.id!r}: the new target {self.target!r} is what the host already says; "
                "drop the edit or change its target"
            )


class CalibrationFact(_Frozen):
    """A fact outside the stream in several phrasings; routers are calibrated on these."""

    subject: Text
    relation: Text
    prompts: Annotated[tuple[Prompt, ...], Field(min_length=1)]


class EditBatch(_Frozen):
    """Edits that are learned together at time ``step`` (counted from 1)."""

    step: int = Field(ge=1)
    edits: Annotated[tuple[Edit, ...], Field(min_length=1)]

    def model_post_init(self, _context: object) -> None:
        facts = FactIndex()
        for edit in self.edits:
            for other in facts.same(edit):
                self._refuse_rivals(other, edit)
            facts.add(edit)

    def _refuse_rivals(self, other: Edit, edit: Edit) -> None:
        """Two wordings of one fact may be learned together; two answers, or one prompt, may not."""
        reworded = normalise(other.prompt) != normalise(edit.prompt)
        if _contradict(other, edit):
            also = f" (the fact of {other.prompt!r} in other words)" if reworded else ""
            raise EditError(
                f"edit {edit.id!r}: its prompt {edit.prompt!r}{also} has two targets in batch "
                f"{self.step}: {other.target!r} (edit {other.id!r}) and {edit.target!r}; "
                "keep one, or put the newer one into a later batch"
            )
        if not reworded:
            raise EditError(
                f"edit {edit.id!r}: its prompt {edit.prompt!r} is already in batch {self.step} "
                f"(edit {other.id!r}); remove one of the two"
            )

    def __iter__(self) -> Iterator[Edit]:  # type: ignore[override]
        return iter(self.edits)

    def __len__(self) -> int:
        return len(self.edits)


class EditStream(_Frozen):
    """The ordered batches of a lifelong run.

    Parameters
    ----------
    batches
        Batches with steps 1..T; none is left where a host knew every edit already.
    name, seed
        Where the edits come from; they appear in figures and saved runs.
    calibration
        Facts outside the stream that routers may look at.
    order
        The name of the planner that made the batches.
    """

    batches: tuple[EditBatch, ...]
    name: str = "edits"
    seed: int = 0
    order: str = "given"
    calibration: tuple[CalibrationFact, ...] = ()

    def model_post_init(self, _context: object) -> None:
        steps = [batch.step for batch in self.batches]
        if steps != list(range(1, len(steps) + 1)):
            raise EditError(f"batches must have steps 1..{len(steps)}, not {steps}")
        for edit_id, count in Counter(edit.id for edit in self.edits).items():
            if count > 1:
                raise EditError(f"edit {edit_id!r}: its id is used {count} times; ids are unique")

    @classmethod
    def from_edits(cls, edits: Iterable[Edit], batch_size: int, **attributes: object) -> EditStream:
        """Cut ``edits`` into batches of ``batch_size`` in their order; the last may be shorter."""
        edits = tuple(edits)
        if batch_size < 1:
            raise EditError(f"batch_size must be at least 1, not {batch_size}")
        chunks = [edits[i : i + batch_size] for i in range(0, len(edits), batch_size)]
        return cls.from_groups(chunks, **attributes)

    @classmethod
    def from_groups(cls, groups: Sequence[Sequence[Edit]], **attributes: object) -> EditStream:
        """One batch for every group of edits, in order; at least one."""
        if not groups:
            raise EditError("no batches: a stream needs at least one edit, and none was given")
        batches = tuple(
            EditBatch(step=step, edits=tuple(group)) for step, group in enumerate(groups, start=1)
        )
        return cls(batches=batches, **attributes)

    def with_groups(self, groups: Sequence[Sequence[Edit]], order: str | None = None) -> EditStream:
        """The same stream in other batches, one for every group; ``order`` names what made them."""
        return EditStream.from_groups(
            groups,
            name=self.name,
            seed=self.seed,
            order=self.order if order is None else order,
            calibration=self.calibration,
        )

    def with_batch(self, edits: Sequence[Edit], at: int | None = None) -> EditStream:
        """The same stream with one more batch after its first ``at`` ones; None: at its end."""
        groups = [batch.edits for batch in self.batches]
        at = len(groups) if at is None else at
        return self.with_groups([*groups[:at], edits, *groups[at:]])

    def merged(self) -> EditStream:
        """All edits in one batch: batch mode instead of lifelong mode.

        Raises
        ------
        EditError
            If two edits have the same prompt, or give one fact two targets: there is no later
            batch for the newer one.
        """
        return self.with_groups([self.edits], order="all at once")

    @property
    def edits(self) -> tuple[Edit, ...]:
        """All edits in the order of the stream."""
        return tuple(edit for batch in self.batches for edit in batch)

    @property
    def superseded(self) -> dict[str, int]:
        """The step at which a later batch edited the same fact again, by the replaced edit's id.

        What counts as the same fact: :class:`FactIndex`.
        """
        earlier = FactIndex()
        replaced: dict[str, int] = {}
        for batch in self.batches:
            for edit in batch:
                for other in earlier.same(edit):
                    replaced.setdefault(other.id, batch.step)
            for edit in batch:
                earlier.add(edit)
        return replaced

    def __iter__(self) -> Iterator[EditBatch]:  # type: ignore[override]
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


FactKey: TypeAlias = str | tuple[str, str]  # a wording, or subject and relation


class FactIndex:
    """Edits by the fact that they are about.

    Two edits are about the same fact if they have the same prompt, if the prompt of one is a
    rephrase of the other, or if both name the same subject and the same relation.

    Parameters
    ----------
    edits
        The first ones to find; :meth:`add` adds more.
    key
        Texts that it makes equal are the same.
    """

    def __init__(self, edits: Iterable[Edit] = (), key: Callable[[str], str] = normalise) -> None:
        self._key = key
        self._asked: defaultdict[FactKey, list[Edit]] = defaultdict(list)
        self._worded: defaultdict[FactKey, list[Edit]] = defaultdict(list)
        for edit in edits:
            self.add(edit)

    def add(self, edit: Edit) -> None:
        """Find ``edit`` from now on."""
        for key in self._keys(edit):
            self._asked[key].append(edit)
        for key in self._keys(edit, reworded=True):
            self._worded[key].append(edit)

    def same(self, edit: Edit) -> list[Edit]:
        """The edits added so far that are about the same fact as ``edit``."""
        asked, worded = self._keys(edit), self._keys(edit, reworded=True)
        found = [other for key in asked for other in self._worded.get(key, ())]
        found += [other for key in worded for other in self._asked.get(key, ())]
        return list({other.id: other for other in found}.values())

    def _keys(self, edit: Edit, reworded: bool = False) -> dict[FactKey, None]:
        """What a fact is recognised by, each once; ``reworded``: by the rephrases as well."""
        keys: dict[FactKey, None] = {self._key(edit.prompt): None}
        if edit.subject and edit.relation:
            keys[self._key(edit.subject), self._key(edit.relation)] = None
        if reworded:
            keys |= {self._key(rephrase.prompt): None for rephrase in edit.rephrases}
        return keys


def _contradict(one: Edit, other: Edit) -> bool:
    """Whether neither edit counts the other's target as right."""
    return normalise(one.target) not in map(normalise, other.answers) and normalise(
        other.target
    ) not in map(normalise, one.answers)


def _complaint(edit_id: object, error: ValidationError) -> str:
    """What is wrong, in one line that begins with the edit's name, if it has one."""
    complaints = []
    for detail in error.errors(include_url=False):
        place = ".".join(map(str, detail["loc"]))
        message = detail["msg"].removeprefix("Value error, ")
        complaints.append(f"{place}: {message}" if place else message)
    text = "; ".join(complaints)
    name = f"edit {edit_id!r}"
    return text if edit_id is None or name in text else f"{name}: {text}"
