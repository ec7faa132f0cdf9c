"""What the unedited host says and computes, kept for whoever asks the same again.

    base_answers(host, prompts)              # what locality compares with
    base_states(host, sequences, layer)      # what every score starts from

Sessions on the same stream, one after the other, share both. A host with other weights shares
nothing.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace

from .encoding import TokenSequence
from .kept import cached_on
from .model import Host
from .states import LayerStates, Score

ROOM = 512 * 2**20  # bytes of hidden states that are kept for a host


@dataclass(frozen=True)
class BaseStates:
    """What enters one layer for some sequences, without ``final``, and their unedited scores."""

    states: LayerStates
    scores: list[Score]

    @property
    def bytes(self) -> int:
        return self.states.hidden.nbytes


def base_answers(host: Host, prompts: Sequence[str]) -> list[str]:
    """What the host, which nothing must edit now, says to prompts; each is decoded once."""
    known: dict[str, str] = cached_on(host, ("base answers", host.fingerprint()), dict)
    missing = [prompt for prompt in dict.fromkeys(prompts) if prompt not in known]
    known |= zip(missing, host.generate(missing, batch_size=len(missing) or 1), strict=True)
    return [known[prompt] for prompt in prompts]


def base_states(host: Host, sequences: Sequence[TokenSequence], layer: int) -> BaseStates:
    """States and scores of sequences that run together, with nothing editing the host now.

    The same sequences at the same layer run once, unless too much was asked since (``ROOM``): the
    longest unasked go first. Callers share the result and must not change it.
    """
    kept: OrderedDict[tuple, BaseStates] = cached_on(host, "base states", OrderedDict)
    key = host.fingerprint(), layer, tuple(sequences)
    if key in kept:
        kept.move_to_end(key)
        return kept[key]
    states = host.states(sequences, layer)
    scores = host.score_hidden(states.final, sequences)
    kept[key] = BaseStates(replace(states, final=states.final.new_empty(0)), scores)
    while sum(base.bytes for base in kept.values()) > ROOM and len(kept) > 1:
        kept.popitem(last=False)
    return kept[key]
