"""Probes: functions that turn a session, or several, into a tidy pandas DataFrame.

    frame = probes.forgetting([session_a, session_b])
    plots.immediate_vs_final(frame)
    probes.forgetting_summary(frame)

Every probe takes one session, a list of sessions, a mapping from a label to sessions (the label
stands in for the editor's name), or a stored frame made by ``measurements``.
"""

from .forgetting import forgetting, forgetting_matrix, forgetting_summary, measurements
from .locality import locality

__all__ = ["forgetting", "forgetting_matrix", "forgetting_summary", "locality", "measurements"]
