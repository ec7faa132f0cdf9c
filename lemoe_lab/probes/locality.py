"""What else changed: prompts that have nothing to do with the edits, after the last step.

frame = locality(sessions)
plots.locality(frame)
"""

from __future__ import annotations

import pandas as pd

from .collect import Sessions, run_key
from .forgetting import forgetting


def locality(sessions: Sessions, scorer: str = "generated") -> pd.DataFrame:
    """Agreement with the unedited host after the last step, per edit and locality group.

    Columns: editor, order, seed (and run, if the frame has it), group, batch, edit, scorer, value.
    Several prompts of one group are averaged; ``text`` is the perplexity ratio of neutral prose,
    whichever scorer is asked for.
    """
    frame = forgetting(sessions, scorer)
    frame = frame[frame["metric"] == "locality"].dropna(subset="final")
    if frame.empty:
        raise ValueError("locality was not measured after the last step; call session.evaluate()")
    frame = frame.rename(columns={"final": "value"}).reset_index(drop=True)
    return frame[[*run_key(frame), "group", "batch", "edit", "scorer", "value"]]
