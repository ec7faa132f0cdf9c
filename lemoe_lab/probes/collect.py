"""What the probes share: each run under one name, and the way back through a session.

frame = collect(sessions, lambda session: session.metrics)
for step in walk_back(session): ...           # the host answers as after that step
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from typing import Any

import pandas as pd

RUN = ["editor", "order", "seed"]

Sessions = Any  # a session, an iterable of them, or a mapping from labels to either


def labelled(sessions: Sessions) -> Iterator[tuple[str, Any]]:
    """Every session with what to call its editor: the label of the mapping, else its name."""
    if isinstance(sessions, Mapping):
        for label, some in sessions.items():
            for _, session in labelled(some):
                yield label, session
    elif isinstance(sessions, Iterable) and not hasattr(sessions, "metrics"):
        yield from ((session.editor.name, session) for session in sessions)
    else:
        yield sessions.editor.name, sessions


def run_of(label: str, session: Any) -> dict[str, Any]:
    """The columns that name a run: editor, order and seed."""
    stream = session.stream
    return dict(zip(RUN, (label, stream.order, stream.seed), strict=True))


def run_key(frame: pd.DataFrame) -> list[str]:
    """The columns that tell runs apart: a sweep's frame has ``run`` beside the other three."""
    return [*RUN, "run"] if "run" in frame else RUN


def collect(sessions: Sessions, measure: Callable[[Any], pd.DataFrame]) -> pd.DataFrame:
    """The tables of all sessions in one, behind the columns editor, order and seed.

    Raises
    ------
    ValueError
        If there is no session, or if two of them would have the same name.
    """
    tables: dict[tuple, pd.DataFrame] = {}
    for label, session in labelled(sessions):
        run = run_of(label, session)
        key = tuple(run.values())
        if key in tables:
            raise ValueError(
                f"two sessions are both editor {key[0]!r}, order {key[1]!r}, seed {key[2]}; "
                "pass a mapping with a label for each: {'one': session, 'other': session}"
            )
        table = measure(session)
        tables[key] = table.assign(**run)[[*RUN, *table.columns]]
    if not tables:
        raise ValueError("no session to probe; pass at least one")
    return pd.concat(tables.values(), ignore_index=True)


def live(sessions: Sessions, measure: Callable[[Any], pd.DataFrame]) -> pd.DataFrame:
    """:func:`collect` for probes that ask the edited host itself.

    Raises
    ------
    ValueError
        For a stored frame, and for a session that is closed or has not learned anything.
    """
    if isinstance(sessions, pd.DataFrame):
        raise ValueError("this probe asks the edited host: pass an open session, not a frame")

    def checked(session: Any) -> pd.DataFrame:
        if not session.is_open:
            raise ValueError(
                f"{session!r} is closed, and this probe asks the edited host; call it inside the "
                "`with` block of the session (several frames: pandas.concat), or open a saved run "
                "with EditSession.resume"
            )
        if not session.steps:
            raise ValueError("nothing was learned yet; apply a batch first, with session.step()")
        return measure(session)

    return collect(sessions, checked)


def walk_back(session: Any) -> Iterator[int]:
    """Bring a session to every learned step, the last one first; it ends where it was.

    Every step is one move of the editor, so that a long run costs no more than twice its length.
    """
    with ExitStack() as visits:
        for step in range(session.steps, 0, -1):
            visits.enter_context(session.at(step))
            yield step
