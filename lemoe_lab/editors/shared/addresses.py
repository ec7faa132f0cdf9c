"""Routing by an address in two parts: whom a prompt names, and what it asks of them.

A pretrained model says in no single state which fact a prompt asks for: in its last token's state
the question shows and the subject is blurred. The subject's words do not blur, however many edits
there are. So an edit is found by its subject, word for word, and among the edits of a subject by
how near the prompt's state comes to theirs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from ...adaptor.anchors import AnchorMemory, Threshold
from ...adaptor.calibration import Calibration, Space, calibration_set, similarity_threshold
from ...adaptor.routing import ScopedRouter
from ...datasets import found_subject, prompt_bank
from ...edits import CalibrationFact, EditBatch
from ...host import Host
from ...host.kept import cached_on
from ...host.names import Asked, key_of, named_in

FEW = 10  # subjects that several facts are about


class NamedAnchors(AnchorMemory):
    """Anchors with the names that lead to them, and what entered the FFN at each one's prompt."""

    def __init__(self, width: int, input_width: int) -> None:
        super().__init__(width)
        self.register_buffer("_name", torch.empty(0, dtype=torch.long))
        self.register_buffer("_input", torch.empty(0, input_width))

    @property
    def names(self) -> Tensor:
        """The number of each one's subject, (A,); see :mod:`lemoe_lab.host.names`."""
        return self._name[: len(self.vectors)]

    @property
    def inputs(self) -> Tensor:
        """What entered the FFN at the last token of each one's prompt, (A, d)."""
        return self._input[: len(self.vectors)]

    def keep(self, names: Tensor, inputs: Tensor) -> None:
        """Give the newest anchors (n) their names (n,) and inputs (n, d)."""
        self.names[len(self.names) - len(names) :] = names
        self.inputs[len(self.inputs) - len(inputs) :] = inputs

    def state(self, expert: int) -> dict[str, Tensor]:
        own = self.expert == expert
        more = {"anchors.names": self.names[own], "anchors.inputs": self.inputs[own]}
        return super().state(expert) | more

    def load(self, expert: int, state: Mapping[str, Tensor]) -> None:
        super().load(expert, state)
        self.keep(state["anchors.names"], state["anchors.inputs"])


class AddressRouter(ScopedRouter):
    """Scoped routing by words and meaning.

    An anchor is looked at only if its subject stands in the prompt; then the prompt needs the
    similarity that other questions about one subject hardly reach.

    Parameters
    ----------
    recalls
        Experts act from the prompt's last token on, and read there what entered the FFN at the
        anchor's own prompt in place of what this prompt brings: a rewording is answered as the
        edit itself.
    """

    feature = "state and words"

    def __init__(
        self,
        centre: Tensor,
        projection: Tensor,
        bypass: Threshold,
        one_expert: bool = False,
        recalls: bool = True,
    ) -> None:
        super().__init__(centre, projection, bypass, one_expert)
        self.recalls = recalls
        self.memory = NamedAnchors(*projection.shape)

    @property
    def threshold(self) -> float:
        return self.bypass.among(1)  # edits of other subjects are no rivals

    def address(self, features: Asked) -> Tensor:
        return super().address(features.state)

    def nearest(self, features: Asked) -> tuple[Tensor, Tensor]:
        named = named_in(self.memory.names, features.runs)
        return self.memory.nearest(self.address(features), named)

    def grow(
        self,
        features: Asked,
        expert: int,
        prompts: Tensor | None = None,
        subjects: Sequence[str | None] = (),
    ) -> None:
        """As of every router; ``subjects`` are those of the prompts, None where nothing is named.

        A subject that its own prompt does not name leads nobody: such an edit is found by meaning.
        """
        super().grow(features, expert, prompts)
        names = torch.tensor([key_of(name or "") for name in subjects], device=features.device)
        said = (features.runs == names[:, None]).any(1)
        self.memory.keep(names * said, features.state)


def subjects_of(batch: EditBatch) -> list[str | None]:
    """What the edits are about, as they name it or as their wordings show it."""
    return [edit.subject or found_subject(edit) for edit in batch]


def has_rivals(facts: Sequence[CalibrationFact]) -> bool:
    """Whether facts show how different questions about one subject look, in several wordings."""
    about = Counter(fact.subject for fact in facts)
    wordings = {len(fact.prompts) for fact in facts}
    return sum(n > 1 for n in about.values()) >= FEW and len(wordings) == 1 and min(wordings) > 1


def standardised_space(host: Host, facts: Sequence[CalibrationFact], layer: int) -> Space:
    """The space of FFN inputs at ``layer``, each number relative to its mean and spread.

    Nothing is fitted to what the facts ask, so it is as good for facts of other kinds.
    """

    def measured() -> Space:
        prompts = [prompt for fact in facts for prompt in fact.prompts]
        data = calibration_set(facts, host.prompt_states(prompts, layer))
        flat = data.features.flatten(0, 1)
        centre, spread = flat.mean(0), flat.std(0)
        addresses = F.normalize((data.features - centre) / spread, dim=-1)
        return Space(centre, torch.diag(1 / spread), data, addresses)

    return cached_on(
        host, ("standardised space", host.fingerprint(), tuple(facts), layer), measured
    )


def bank_calibration(host: Host, layer: int, alarms: float) -> Calibration:
    """What an :class:`AddressRouter` needs, from the bank of prompts that ships with the library.

    ``alarms`` is the share of other questions about a subject that may be taken for an edit.
    """
    space = standardised_space(host, prompt_bank(), layer)
    threshold = similarity_threshold(space.addresses, space.data, alarms, same_subject=True)
    return Calibration(space.centre, space.projection, threshold)
