"""Probes: functions that turn a session, or several, into a tidy pandas DataFrame.

    frame = probes.forgetting([session_a, session_b])
    plots.immediate_vs_final(frame)
    probes.forgetting_summary(frame)

Every probe takes one session, a list of sessions, or a mapping from a label to sessions (the label
stands in for the editor's name). ``forgetting``, ``forgetting_matrix``, ``locality`` and ``order``
also take a stored frame made by ``measurements``; ``routing`` and ``drift`` ask the edited host
and so need open sessions.
"""

from .causes import forgetting_causes, lost_edits
from .drift import drift
from .forgetting import forgetting, forgetting_matrix, forgetting_summary, measurements
from .locality import locality
from .order import order, order_summary, similarity_correlation
from .routing import (
    routing,
    routing_consistency,
    routing_entropy,
    routing_matrix,
    routing_summary,
)

__all__ = [
    "drift",
    "forgetting",
    "forgetting_causes",
    "forgetting_matrix",
    "forgetting_summary",
    "locality",
    "lost_edits",
    "measurements",
    "order",
    "order_summary",
    "routing",
    "routing_consistency",
    "routing_entropy",
    "routing_matrix",
    "routing_summary",
    "similarity_correlation",
]
