"""What a sweep computes: one session as plain data, and grids of them.

run = Run(editor=LEMoE(), stream=AlmanacStream(edits=300, batch_size=30))
run.key                                       # decides whether a stored result is this run's
execute(run, host)                            # here and now, to look into a run that fails
"""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import json
from collections.abc import Iterable, Mapping
from functools import cached_property
from importlib.metadata import version
from typing import Any, Literal, Self

import pandas as pd
from pydantic import BaseModel, ConfigDict, Field, field_validator

from .. import datasets, editors, metrics, planning, probes
from ..editors import Editor
from ..edits import EditStream
from ..host import Host, load_host
from ..planning import Planner
from ..session import EditSession

MEASUREMENTS = "measurements"
ONCE = "all at once"  # the order of a merged stream


class _Plain(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """A copy with other values, checked again; it keeps nothing that was derived from them."""
        fields = {name: getattr(self, name) for name in type(self).model_fields}
        return type(self)(**{**fields, **(update or {})})


class AlmanacStream(_Plain):
    """The arguments of ``datasets.almanac``; the stream is drawn where it is needed."""

    edits: int = Field(300, ge=1)
    batch_size: int = Field(30, ge=1)
    seed: int = 0
    kind: Literal["update", "new", "mixed"] = "update"

    @cached_property
    def drawn(self) -> EditStream:
        """The stream itself."""
        return datasets.almanac(**self.model_dump())


class Choice(_Plain):
    """An editor or a planner of the library: the name of its class, and its settings."""

    name: str
    settings: dict[str, Any] = {}

    @classmethod
    def of(cls, part: Editor | Planner) -> Choice:
        """What describes an editor or a planner."""
        if isinstance(part, Editor):
            settings = part.config.model_dump(mode="json")
        else:
            settings = dataclasses.asdict(part)
        return cls(name=type(part).__name__, settings=settings)

    def as_editor(self) -> Editor:
        """A new editor of the class, wherever it was defined."""
        return editors.by_name(self.name)(**self.settings)

    def as_planner(self) -> Planner:
        """A new planner of the class, one of the library's."""
        kinds = {name: getattr(planning, name) for name in planning.__all__}
        kinds = {name: kind for name, kind in kinds.items() if _plans(kind)}
        if self.name not in kinds:
            raise ValueError(f"there is no planner {self.name!r}; there are {', '.join(kinds)}")
        try:
            return kinds[self.name](**self.settings)
        except TypeError as error:
            raise ValueError(f"{self.name}: {error}") from error


class Run(_Plain):
    """One session of a sweep, as plain data.

    Parameters
    ----------
    editor, planner
        Who edits, and who orders the edits: objects of the library, or their :class:`Choice`.
        Without a planner the stream keeps its own order.
    stream
        An :class:`AlmanacStream`, or any ``EditStream``.
    merged
        Batch mode: all edits in one batch.
    label
        What results call the editor; None: its own name. It decides nothing else.
    keep
        The metrics to measure and to store.
    immediate
        The metrics that are measured of each batch right after it was learned.
    measured_at
        Steps after which all batches so far are measured, beside the last one.
    probes
        Probes to ask before the session closes, by name: those of ``lemoe_lab.probes`` that take
        sessions, and ``similarity``.
    host, device, dtype, encoding
        The arguments of ``load_host``; ``encoding`` holds chat, joint and stop_token.
    fingerprint
        What ``Host.fingerprint`` must return for the run to be computed; None trusts the name.
    """

    editor: Choice
    stream: AlmanacStream | EditStream
    planner: Choice | None = None
    merged: bool = False
    label: str | None = None
    keep: tuple[str, ...] = metrics.METRICS
    immediate: tuple[str, ...] = metrics.METRICS
    measured_at: tuple[int, ...] = ()
    probes: tuple[str, ...] = ()
    host: str = "almanac"
    fingerprint: str | None = None
    device: str = "cpu"
    dtype: str = "auto"
    encoding: dict[str, str | int] = {}

    @field_validator("editor", "planner", mode="before")
    @classmethod
    def _described(cls, part: object) -> object:
        return Choice.of(part) if isinstance(part, Editor | Planner) else part

    @field_validator("editor")
    @classmethod
    def _editor_with_all_settings(cls, choice: Choice) -> Choice:
        return Choice.of(choice.as_editor())

    @field_validator("planner")
    @classmethod
    def _planner_with_all_settings(cls, choice: Choice | None) -> Choice | None:
        return choice and Choice.of(choice.as_planner())

    @field_validator("keep", "immediate")
    @classmethod
    def _known_metrics(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        return _known(names, metrics.METRICS, "metric")

    @field_validator("probes")
    @classmethod
    def _known_probes(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        return _known(names, session_probes(), "probe")

    @cached_property
    def key(self) -> str:
        """A hash of all that decides the result: settings, edits, host, version of the library."""
        left_out = {"label", "stream"} if self.encoding else {"label", "stream", "encoding"}
        content = self.model_dump(mode="json", exclude=left_out)
        content["stream"] = hashlib.sha256(self.given.model_dump_json().encode()).hexdigest()
        content["version"] = version("lemoe-lab")
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    @property
    def name(self) -> dict[str, Any]:
        """What results call the editor, the order and the seed."""
        order = self.planner.as_planner().name if self.planner else self.given.order
        return {
            "editor": self.label or self.editor.as_editor().name,
            "order": ONCE if self.merged else order,
            "seed": self.given.seed,
        }

    @property
    def given(self) -> EditStream:
        """The stream in its own order."""
        return self.stream.drawn if isinstance(self.stream, AlmanacStream) else self.stream

    def planned(self, host: Host) -> EditStream:
        """The stream in the order in which it is learned."""
        stream = self.given
        if self.planner:
            stream = self.planner.as_planner().plan(stream, host)
        return stream.merged() if self.merged else stream


def execute(run: Run, host: Host) -> dict[str, pd.DataFrame]:
    """Compute a run in this process: ``measurements``, and a table for each of its probes."""
    editor = run.editor.as_editor()
    settings = {"progress": False, "immediate": run.immediate}
    with EditSession(host, editor, run.planned(host), **settings) as session:
        last = len(session.stream)
        for step in sorted({*(min(step, last) for step in run.measured_at), last}):
            session.jump(step)
            session.evaluate(run.keep)
        table = probes.measurements(session)
        tables = {MEASUREMENTS: table[table["metric"].isin(run.keep)].reset_index(drop=True)}
        return tables | {name: _asked(name, session) for name in run.probes}


def _asked(name: str, session: EditSession) -> pd.DataFrame:
    if name == "similarity":
        return pd.DataFrame([planning.similarity(session.stream, session.host)])
    return getattr(probes, name)(session)


def grid(
    host: Host | str = "almanac",
    *,
    editors: Mapping[str, Editor] | Iterable[Editor],
    streams: Iterable[AlmanacStream | EditStream],
    orders: Iterable[Planner | None] = (None,),
    seeds: Iterable[int] | None = None,
    merged: bool = False,
    keep: Iterable[str] = metrics.METRICS,
    immediate: Iterable[str] = metrics.METRICS,
    measured_at: Iterable[int] = (),
    probes: Iterable[str] = (),
) -> list[Run]:
    """A run for every stream, seed, order and editor.

    Parameters
    ----------
    host
        The host or its name. Workers load it by its name, and refuse other weights.
    editors
        As they would be given to a session; a mapping labels them.
    streams, seeds
        Every seed draws every ``AlmanacStream``; None leaves the streams their own seeds.
    orders
        Planners, with seeds of their own; None is the stream's own order.
    merged, keep, immediate, measured_at, probes
        As in :class:`Run`, for all runs.

    Raises
    ------
    ValueError
        If seeds are given for a stream that cannot be drawn again.
    RuntimeError
        If the host is being edited, for then its fingerprint says nothing.
    """
    host = load_host(host) if isinstance(host, str) else host
    host.require_free()
    shared = {
        "host": host.name,
        "fingerprint": host.fingerprint(),
        "device": str(host.device),
        "dtype": str(host.model.dtype).removeprefix("torch."),
        "encoding": host.encoding.options,
        "merged": merged,
        "keep": tuple(keep),
        "immediate": tuple(immediate),
        "measured_at": tuple(measured_at),
        "probes": tuple(probes),
    }
    orders = list(orders)
    labelled = editors.items() if isinstance(editors, Mapping) else [(None, e) for e in editors]
    return [
        Run(editor=editor, label=label, planner=order, stream=stream, **shared)
        for stream in _seeded(list(streams), seeds)
        for order in orders
        for label, editor in labelled
    ]


def _seeded(
    streams: list[AlmanacStream | EditStream], seeds: Iterable[int] | None
) -> list[AlmanacStream | EditStream]:
    if seeds is None:
        return streams
    for stream in streams:
        if isinstance(stream, EditStream):
            raise ValueError(
                f"the stream {stream.name!r} has its own seed ({stream.seed}) and cannot be drawn "
                "again; leave out seeds, and give one stream for every seed"
            )
    seeds = list(seeds)
    return [stream.model_copy(update={"seed": seed}) for stream in streams for seed in seeds]


def session_probes() -> tuple[str, ...]:
    """Names of the probes that a run can ask of its session."""
    of_sessions = [
        name
        for name in probes.__all__
        if name != MEASUREMENTS
        and "sessions" in inspect.signature(getattr(probes, name)).parameters
    ]
    return ("similarity", *of_sessions)


def _plans(kind: object) -> bool:
    return inspect.isclass(kind) and issubclass(kind, Planner) and not inspect.isabstract(kind)


def _known(names: tuple[str, ...], allowed: tuple[str, ...], what: str) -> tuple[str, ...]:
    """The names in the order of ``allowed``, each once."""
    for name in names:
        if name not in allowed:
            raise ValueError(f"unknown {what} {name!r}; known are {', '.join(allowed)}")
    return tuple(name for name in allowed if name in names)
