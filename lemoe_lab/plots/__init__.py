"""Figures: a tidy DataFrame in, matplotlib Axes out.

    ax = immediate_vs_final(probes.forgetting(sessions))
    save(ax, "immediate_vs_final")                # figures/immediate_vs_final.png and .svg

Every function draws on ``ax``, or on a new figure if there is none, and returns the Axes. Every
figure says under its axes how many edits, which seeds and which scorer it shows. A method has the
same colour in all of them.
"""

from .drift import drift
from .forgetting import forgetting_matrix, immediate_vs_final, locality, reliability_over_batches
from .order import order_violin, similarity_scatter
from .pairs import score_pairs
from .routing import routing_consistency, routing_heatmap
from .scaling import scaling
from .scores import score_table
from .style import (
    METHOD_COLOURS,
    OTHER_COLOURS,
    caption,
    figures_folder,
    method_colour,
    save,
    style,
)
from .tracing import causal_tracing, tracing_by_layer

__all__ = [
    "METHOD_COLOURS",
    "OTHER_COLOURS",
    "caption",
    "causal_tracing",
    "drift",
    "figures_folder",
    "forgetting_matrix",
    "immediate_vs_final",
    "locality",
    "method_colour",
    "order_violin",
    "reliability_over_batches",
    "routing_consistency",
    "routing_heatmap",
    "save",
    "scaling",
    "score_pairs",
    "score_table",
    "similarity_scatter",
    "style",
    "tracing_by_layer",
]
