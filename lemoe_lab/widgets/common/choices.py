"""What a stepper lets one choose: editor, planner, batch size and seed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ... import editors
from ...editors import PRESETS, Editor, preset_settings
from ...edits import EditError, EditStream
from ...host import Host
from ...planning import (
    HierarchicalOrder,
    KMeansOrder,
    MixedOrder,
    Planner,
    RandomOrder,
    TopicOrder,
)
from ...session import EditSession

AS_GIVEN = "as given"
KINDS = (RandomOrder, TopicOrder, KMeansOrder, HierarchicalOrder, MixedOrder)
PLANNERS: dict[str, type[Planner]] = {kind.name: kind for kind in KINDS}
KEPT = ("name", "seed", "order", "calibration")  # by edits that are put into other batches
ORDERS = (AS_GIVEN, *PLANNERS)


@dataclass(frozen=True)
class Choice:
    """What a session is made with; the seed is the editor's and the planner's."""

    editor: str
    planner: str
    batch_size: int
    seed: int


@dataclass(frozen=True)
class EditorSpec:
    """An editor class with its settings: makes an editor, and says how it is written in Python."""

    kind: type[Editor]
    settings: Mapping[str, object]

    def make(self, seed: int) -> Editor:
        """A new editor with this seed."""
        return self.kind(**{**self.settings, "seed": seed})

    def code(self, seed: int) -> str:
        """The call that makes it, settings at their default left out."""
        fields = self.kind.Config.model_fields
        given = {**self.settings, "seed": seed}
        usual = {name: field.default for name, field in fields.items()}
        changed = (f"{k}={v!r}" for k, v in given.items() if k not in usual or usual[k] != v)
        name = self.kind.__name__
        found = name if hasattr(editors, name) else f"by_name({name!r})"
        return f"ll.editors.{found}({', '.join(changed)})"


def editor_specs(own: Editor) -> dict[str, EditorSpec]:
    """All editors by the name that figures use; the session's own comes first, as it was set up."""
    specs = {own.name: EditorSpec(type(own), own.config.model_dump())}
    for name in PRESETS:
        specs.setdefault(name, EditorSpec(*preset_settings(name)))
    return specs


def planned(source: EditStream, planner: str, seed: int, host: Host) -> EditStream:
    """The edits of ``source`` in the order of a planner, in batches of the same sizes."""
    check_known("planner", planner, ORDERS)
    return source if planner == AS_GIVEN else PLANNERS[planner](seed=seed).plan(source, host)


def check_known(what: str, name: str, known: Iterable[str]) -> None:
    """Raise :class:`EditError` for a name that is not offered."""
    if name not in known:
        raise EditError(f"{what} must be one of {', '.join(known)}, not {name!r}")


def keeps_batches(source: EditStream, choice: Choice) -> bool:
    """Whether the chosen batch size leaves the batches of the stream as they are."""
    *whole, last = (len(batch) for batch in source)
    return set(whole) <= {choice.batch_size} and last <= choice.batch_size


def rebatched(source: EditStream, batch_size: int, edits: int | None = None) -> EditStream:
    """The first ``edits`` in their order (None: all), ``batch_size`` to a batch but the last."""
    kept = {name: getattr(source, name) for name in KEPT}
    return EditStream.from_edits(source.edits[:edits], batch_size, **kept)


def remade(
    session: EditSession, source: EditStream, choice: Choice, specs: Mapping[str, EditorSpec]
) -> EditSession:
    """A new session on the same host; the old one is closed once the new one stands.

    After any error, of an impossible choice, the old one goes on as it was.
    """
    check_known("editor", choice.editor, specs)
    host = session.host
    editor = specs[choice.editor].make(choice.seed)
    with session.at(0):  # so that the new editor meets the unedited host
        stream = source if keeps_batches(source, choice) else rebatched(source, choice.batch_size)
        stream = planned(stream, choice.planner, choice.seed, host)
        host.release()
        try:
            fresh = EditSession(host, editor, stream, progress=session.progress)
        except BaseException:
            host.claim(session.editor)
            raise
    session.close()
    host.claim(fresh.editor)
    return fresh
