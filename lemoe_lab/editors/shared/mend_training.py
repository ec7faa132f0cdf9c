"""MEND's networks: what they make of a gradient, and how they learn it.

state = trained_networks(host, facts, settings)               # trained once, then remembered
networks = new_networks(host, settings)
networks.load_state_dict(state)
given = factors(host, states, layer, linears)                 # gradients as sums of outer products
changes = networks.changes(given, groups=1)                   # one change for all edits

A weight's gradient over a batch is a sum, over tokens, of outer products of the error at its output
and its input: the two factors that the networks transform.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...edits import CalibrationFact
from ...host import Host
from ...host.encoding import TokenSequence
from ...host.hooks import hung, on_output
from ...host.kept import cached_on
from ...host.states import LayerStates
from .gradients import edit_losses, keys_and_gradients
from .weights import matrix


@dataclass(frozen=True)
class Factors:
    """A weight's gradients for E edits, token by token: ``errors[e, l]`` times ``inputs[e, l]``.

    ``inputs`` (E, L, in) enter the weight, ``errors`` (E, L, out) are the loss's gradients at its
    output, ``tokens`` (E, L) is False where there is none.
    """

    inputs: Tensor
    errors: Tensor
    tokens: Tensor


def linears_above(host: Host, layer: int) -> dict[str, nn.Module]:
    """The linear modules of the FFNs from ``layer`` up, by the name of their weight."""
    chosen = {
        module for index in range(layer, len(host.layers)) for module in host.ffn_linears(index)
    }
    named_modules = host.model.named_modules()
    return {f"{name}.weight": module for name, module in named_modules if module in chosen}


def factors(
    host: Host, states: LayerStates, layer: int, linears: Mapping[str, nn.Module]
) -> dict[str, Factors]:
    """The gradient factors of every weight, edit by edit: a batch does not dilute them."""
    modules = list(linears.values())
    traces = keys_and_gradients(states, modules, lambda s: edit_losses(host, s, layer).sum())
    # The last token of a target is predicted, and predicts nothing: no error reaches it.
    lengths = torch.tensor([len(s) - 1 for s in states.sequences], device=states.hidden.device)
    places = torch.arange(states.hidden.shape[1], device=states.hidden.device)
    tokens = places < lengths[:, None]
    return {
        name: Factors(inputs.float(), errors.float(), tokens)
        for name, (inputs, errors) in zip(linears, traces, strict=True)
    }


class GradientNetwork(nn.Module):
    """The network of all weights of one shape (out, in); each has scales and offsets of its own.

    z = normalised (input, error);  h = z + relu(s1 * (U1 V1 z + b1) + o1);
    g = h + s2 * (U2 V2 h + b2) + o2. It is the identity on z at birth.
    """

    def __init__(self, width_in: int, width_out: int, weights: int, rank: int, seed: int) -> None:
        super().__init__()
        width = width_in + width_out
        rank = min(rank, width)
        generator = torch.Generator().manual_seed(seed)
        self.split = (width_in, width_out)
        self.register_buffer("mean", torch.zeros(weights, width))
        self.register_buffer("deviation", torch.ones(weights, width))
        self.down = nn.Parameter(torch.randn(2, rank, width, generator=generator) / width**0.5)
        self.up = nn.Parameter(torch.zeros(2, width, rank))
        self.bias = nn.Parameter(torch.zeros(2, width))
        self.scale = nn.Parameter(torch.ones(weights, 2, width))
        self.offset = nn.Parameter(torch.zeros(weights, 2, width))

    def forward(self, inputs: Tensor, errors: Tensor, weight: int) -> tuple[Tensor, Tensor]:
        """Transformed factors (..., in) and (..., out) of one of the weights."""
        z = torch.cat([inputs, errors], -1)
        z = (z - self.mean[weight]) / self.deviation[weight]
        # Unlike relu, clamp has a gradient at zero, where every network starts.
        h = z + self._layer(z, weight, 0).clamp(min=0)
        return (h + self._layer(h, weight, 1)).split(self.split, -1)

    def _layer(self, x: Tensor, weight: int, index: int) -> Tensor:
        linear = x @ self.down[index].T @ self.up[index].T + self.bias[index]
        return self.scale[weight, index] * linear + self.offset[weight, index]


class GradientNetworks(nn.Module):
    """The networks of all edited weights, one for each shape, and a learned rate for each weight.

    Parameters
    ----------
    shapes
        (out, in) of every edited weight, by name.
    """

    def __init__(
        self, shapes: Mapping[str, tuple[int, int]], rank: int, rate: float, seed: int
    ) -> None:
        super().__init__()
        by_shape: dict[tuple[int, int], list[str]] = {}
        for name, shape in shapes.items():
            by_shape.setdefault(shape, []).append(name)
        self.place = {  # network and number in it of every weight
            name: (number, names.index(name))
            for number, names in enumerate(by_shape.values())
            for name in names
        }
        self.networks = nn.ModuleList(
            GradientNetwork(width_in, width_out, len(names), rank, seed + number)
            for number, ((width_out, width_in), names) in enumerate(by_shape.items())
        )
        self.rates = nn.Parameter(torch.full((len(shapes),), rate))
        self.number = {name: number for number, name in enumerate(shapes)}

    def fit_normalisation(self, given: Mapping[str, Factors]) -> None:
        """Let every network see inputs and errors with mean 0 and deviation 1."""
        for name, part in given.items():
            network, weight = self.place[name]
            rows = torch.cat([part.inputs, part.errors], -1)[part.tokens]  # (n, in + out)
            self.networks[network].mean[weight] = rows.mean(0)
            self.networks[network].deviation[weight] = rows.std(0).clamp(min=1e-7)

    def changes(self, given: Mapping[str, Factors], groups: int) -> dict[str, Tensor]:
        """What to add to every weight, (groups, out, in), for ``groups`` equal groups of edits."""
        result = {}
        for name, part in given.items():
            network, weight = self.place[name]
            inputs, errors = self.networks[network](part.inputs, part.errors, weight)
            inputs = (inputs * part.tokens[..., None]).flatten(0, 1).unflatten(0, (groups, -1))
            errors = errors.flatten(0, 1).unflatten(0, (groups, -1))  # (groups, n, out)
            result[name] = -self.rates[self.number[name]] * errors.mT @ inputs
        return result


@contextmanager
def added(linears: Mapping[str, nn.Module], changes: Mapping[str, Tensor]) -> Iterator[None]:
    """Let every group of rows see weights changed for it alone, with gradients, and no others.

    Rows of a forward pass (B, L, in) belong to the groups of ``changes`` (G, out, in) in order.
    """

    def add(name: str, x: Tensor, output: Tensor) -> Tensor:
        change = changes[name]
        groups = x.float().unflatten(0, (len(change), -1))  # (G, B / G, L, in)
        return output + (groups @ change.mT[:, None]).flatten(0, 1).to(output.dtype)

    with hung(*(on_output(module, partial(add, name)) for name, module in linears.items())):
        yield


# Training


@dataclass(frozen=True)
class TrainingSettings:
    """How the networks are made and trained; see :class:`~lemoe_lab.editors.mend.MENDConfig`."""

    layer: int
    rank: int
    initial_rate: float
    steps: int
    edits: int
    batch_sizes: tuple[int, ...]
    learning_rate: float
    edit_weight: float
    seed: int


class EditDraws:
    """Edits made of facts that the host knows: another fact's answer becomes the new target.

    Raises
    ------
    ValueError
        If no relation has two facts that the host answers differently.
    """

    def __init__(self, host: Host, facts: Sequence[CalibrationFact], seed: int) -> None:
        self.host = host
        self.facts = facts
        self.answers = host.generate([fact.prompts[0] for fact in facts])
        self.generator = torch.Generator().manual_seed(seed)
        self.alike: dict[str, list[int]] = {}
        for index, fact in enumerate(facts):
            if self.answers[index]:
                self.alike.setdefault(fact.relation, []).append(index)
        self.editable = [i for group in self.alike.values() for i in group if self._others(i)]
        if not self.editable:
            raise ValueError(
                "MEND trains on facts of the same relation with different answers, and "
                f"{host.name} answers no two of the {len(facts)} calibration facts so; give the "
                "stream more of them"
            )

    def _others(self, index: int) -> list[int]:
        """Facts of the same relation that the host answers otherwise."""
        alike = self.alike[self.facts[index].relation]
        return [other for other in alike if self.answers[other] != self.answers[index]]

    def _pick(self, count: int) -> int:
        return int(torch.randint(count, (), generator=self.generator))

    def edits(self, count: int) -> list[tuple[int, str]]:
        """Different facts, each with its new target."""
        order = torch.randperm(len(self.editable), generator=self.generator)[:count].tolist()
        chosen = [self.editable[i] for i in order]
        targets = []
        for index in chosen:
            others = self._others(index)
            targets.append(self.answers[others[self._pick(len(others))]])
        return list(zip(chosen, targets, strict=True))

    def edit_sequence(self, edit: tuple[int, str]) -> TokenSequence:
        """The canonical prompt with the new target."""
        index, target = edit
        return self.host.encode(self.facts[index].prompts[0], target)

    def rephrased(self, edit: tuple[int, str]) -> TokenSequence:
        """Any phrasing with the new target."""
        index, target = edit
        prompts = self.facts[index].prompts
        return self.host.encode(prompts[self._pick(len(prompts))], target)

    def kept(self, edited: set[int], near: int | None) -> TokenSequence:
        """A fact that is not edited, with the host's own answer: of any relation, or near one."""
        pool = self.editable if near is None else self._others(near)
        free = [index for index in pool if index not in edited] or self.editable
        index = free[self._pick(len(free))]
        prompts = self.facts[index].prompts
        return self.host.encode(prompts[self._pick(len(prompts))], self.answers[index])


def trained_networks(
    host: Host, facts: Sequence[CalibrationFact], settings: TrainingSettings
) -> dict[str, Tensor]:
    """The state of networks trained on ``facts``; once for equal arguments and host weights."""

    def train() -> dict[str, Tensor]:
        return train_networks(host, EditDraws(host, facts, settings.seed), settings)

    return cached_on(host, ("MEND", host.fingerprint(), tuple(facts), settings), train)


def new_networks(host: Host, settings: TrainingSettings) -> GradientNetworks:
    """Networks that transform nothing yet."""
    linears = linears_above(host, settings.layer)
    shapes = {name: tuple(matrix(module).shape) for name, module in linears.items()}
    networks = GradientNetworks(shapes, settings.rank, settings.initial_rate, settings.seed)
    return networks.to(host.device)


def train_networks(host: Host, draws: EditDraws, settings: TrainingSettings) -> dict[str, Tensor]:
    """Adam on ``edit_weight * L_edit + L_locality`` over drawn edits; the networks' state."""
    layer, linears = settings.layer, linears_above(host, settings.layer)
    networks = new_networks(host, settings)
    sample = [draws.edit_sequence(edit) for edit in draws.edits(8 * settings.edits)]
    networks.fit_normalisation(factors(host, host.states(sample, layer), layer, linears))
    groups = [
        {"params": networks.networks.parameters(), "lr": settings.learning_rate},
        {"params": [networks.rates], "lr": settings.initial_rate / 10},
    ]
    optimizer = torch.optim.Adam(groups)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, settings.steps)
    for step in range(settings.steps):
        size = settings.batch_sizes[step % len(settings.batch_sizes)]
        loss = episode_loss(host, networks, linears, draws, settings, size)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(networks.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return {name: tensor.detach() for name, tensor in networks.state_dict().items()}


def episode_loss(
    host: Host,
    networks: GradientNetworks,
    linears: Mapping[str, nn.Module],
    draws: EditDraws,
    settings: TrainingSettings,
    size: int,
) -> Tensor:
    """Loss of edits applied in groups of ``size``: of their rephrases and of facts kept."""
    layer = settings.layer
    edits = draws.edits(max(1, settings.edits // size) * size)
    size = min(size, len(edits))
    groups = len(edits) // size
    edits = edits[: groups * size]
    sequences = [draws.edit_sequence(edit) for edit in edits]
    given = factors(host, host.states(sequences, layer), layer, linears)
    asked: list[TokenSequence] = []
    is_edit: list[bool] = []
    for group in range(groups):
        inside = edits[group * size : (group + 1) * size]
        edited = {index for index, _ in inside}
        for edit in inside:
            asked += [draws.edit_sequence(edit), draws.rephrased(edit)]
            asked += [draws.kept(edited, edit[0]), draws.kept(edited, None)]
            is_edit += [True, True, False, False]
    states = host.states(asked, layer)
    with added(linears, networks.changes(given, groups)):
        logits = host.target_logits(host.finish(states, layer), asked)  # (n, V)
    with torch.no_grad():
        before = host.target_logits(states.final, asked)
    of_edit = torch.tensor(
        [flag for flag, s in zip(is_edit, asked, strict=True) for _ in s.target],
        device=logits.device,
    )
    edit_loss = F.cross_entropy(logits[of_edit], host.target_ids(asked)[of_edit])
    kept = ~of_edit
    locality = F.kl_div(
        logits[kept].log_softmax(-1),
        before[kept].log_softmax(-1),
        log_target=True,
        reduction="batchmean",
    )
    return settings.edit_weight * edit_loss + locality
