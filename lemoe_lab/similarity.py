"""How alike edits are: in one batch, and between batches.

similarity(stream, host)                      # one row of a table
embeddings(stream.edits, host)                # (N, d), what it is computed from
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from .edits import Edit, EditStream

if TYPE_CHECKING:
    from .host import Host

Features = Literal["embeddings", "hidden"]


def embeddings(
    edits: Sequence[Edit],
    host: Host,
    features: Features = "embeddings",
    layer: int | None = None,
) -> np.ndarray:
    """What the prompts of ``edits`` look like to the host: (N, d), centred, each row of length 1.

    Parameters
    ----------
    features
        ``embeddings``: the mean of the prompt's input embeddings. ``hidden``: the state of the last
        prompt token before the feed-forward network of ``layer``.
    """
    check_features(features, layer)
    prompts = [edit.prompt for edit in edits]
    states = host.embed(prompts) if features == "embeddings" else host.prompt_states(prompts, layer)
    points = states.detach().cpu().numpy().astype(np.float64)  # (N, d)
    points -= points.mean(0)
    lengths = np.linalg.norm(points, axis=1, keepdims=True)  # (N, 1)
    return points / np.maximum(lengths, np.finfo(float).tiny)


def within_batch_similarity(
    stream: EditStream,
    host: Host,
    features: Features = "embeddings",
    layer: int | None = None,
) -> float:
    """Mean cosine similarity of two edits in the same batch; nan if no batch has two."""
    return _similarities(stream, host, features, layer)[0]


def between_batch_similarity(
    stream: EditStream,
    host: Host,
    features: Features = "embeddings",
    layer: int | None = None,
) -> float:
    """Mean cosine similarity of two edits in different batches; nan if there is one batch."""
    return _similarities(stream, host, features, layer)[1]


def similarity(
    stream: EditStream,
    host: Host,
    features: Features = "embeddings",
    layer: int | None = None,
) -> dict[str, object]:
    """One row of a table: ``pd.DataFrame([similarity(stream, host) for stream in streams])``."""
    within, between = _similarities(stream, host, features, layer)
    return {
        "stream": stream.name,
        "order": stream.order,
        "seed": stream.seed,
        "edits": len(stream.edits),
        "batches": len(stream),
        "within": within,
        "between": between,
    }


def check_features(features: str, layer: int | None) -> None:
    """Raise ValueError unless ``hidden`` comes with a layer and ``embeddings`` without one."""
    if features not in get_args(Features):
        raise ValueError(f"embed must be one of {', '.join(get_args(Features))}, not {features!r}")
    if (features == "hidden") != (layer is not None):
        raise ValueError(
            f"embed='hidden' needs a layer and embed='embeddings' takes none, "
            f"but embed={features!r} came with layer={layer}"
        )


def _similarities(
    stream: EditStream, host: Host, features: Features, layer: int | None
) -> tuple[float, float]:
    points = embeddings(stream.edits, host, features, layer)  # (N, d)
    parts = np.split(points, np.cumsum([len(batch) for batch in stream])[:-1])
    all_sum, all_pairs = _pairs(points)
    same_sum, same_pairs = np.sum([_pairs(part) for part in parts], axis=0)
    within = same_sum / same_pairs if same_pairs else np.nan
    others = all_pairs - same_pairs
    between = (all_sum - same_sum) / others if others else np.nan
    return float(within), float(between)


def _pairs(points: np.ndarray) -> tuple[float, int]:
    """The sum of the dot products of all pairs of different rows, and how many pairs there are."""
    total = points.sum(0)
    count = len(points)
    return (total @ total - (points * points).sum()) / 2, count * (count - 1) // 2
