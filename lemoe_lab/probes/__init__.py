"""Probes: functions that turn a session, or several, into a tidy pandas DataFrame.

    frame = probes.forgetting([session_a, session_b])
    plots.immediate_vs_final(frame)
    probes.forgetting_summary(frame)

Every probe of sessions takes one, a list of them, or a mapping from a label to sessions (the label
stands in for the editor's name). ``forgetting``, ``forgetting_matrix``, ``locality`` and ``order``
also take a stored frame made by ``measurements``; ``routing`` and ``drift`` ask the edited host
and so need open sessions. ``causal_tracing`` takes a host that nobody edits, and facts.
"""

from .causes import forgetting_causes, lost_edits
from .drift import drift
from .forgetting import forgetting, forgetting_matrix, forgetting_summary, measurements
from .locality import locality
from .oracle import oracle
from .routing import routing, routing_consistency, routing_entropy, routing_matrix, routing_summary
from .run_scores import order, order_summary, similarity_correlation
from .scaling import cost, over_seeds, scaling
from .scorers import both_scorers, ranking
from .tracing import causal_tracing, layers_with_most_effect, tracing_summary

__all__ = [
    "both_scorers",
    "causal_tracing",
    "cost",
    "drift",
    "forgetting",
    "forgetting_causes",
    "forgetting_matrix",
    "forgetting_summary",
    "layers_with_most_effect",
    "locality",
    "lost_edits",
    "measurements",
    "oracle",
    "order",
    "order_summary",
    "over_seeds",
    "ranking",
    "routing",
    "routing_consistency",
    "routing_entropy",
    "routing_matrix",
    "routing_summary",
    "scaling",
    "similarity_correlation",
    "tracing_summary",
]
