"""LEMoE to be read in one sitting: the method alone, without batching, caches, undo or files.

    lemoe = BarebonesLEMoE(host, stream.calibration)
    for batch in stream:
        lemoe.edit(batch)
    lemoe.answer("The prime minister of Gemland is")

It does what :class:`~lemoe_lab.editors.LEMoE` with scoped routing does, and answers the same.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..adaptor.calibration import scoped_space, similarity_threshold
from ..edits import CalibrationFact, EditBatch
from ..host import Host
from ..host.feed_forward import linears


class BarebonesLEMoE:
    """A frozen expert for every batch, found again by the anchors that its edits left.

        h = FFN(x) + f_i(x)                                 (arXiv 2406.20030, eq. 2, gate 1)
        i = the expert of the anchor nearest to the prompt's address; none if it is too far

    The address of a prompt is the frozen host's own hidden state at its last token, projected.

    Parameters
    ----------
    facts
        What it knows, in several wordings: they show how alike prompts look that ask the same.
    seed, steps, learning_rate, loss_threshold
        AdamW takes at most ``steps`` steps at each batch, fewer once the loss is below
        ``loss_threshold``.
    """

    def __init__(
        self,
        host: Host,
        facts: Sequence[CalibrationFact],
        *,
        seed: int = 0,
        steps: int = 100,
        learning_rate: float = 5e-3,
        loss_threshold: float = 0.001,
    ) -> None:
        self.host, self.seed = host, seed
        self.steps, self.learning_rate, self.loss_threshold = steps, learning_rate, loss_threshold
        self.layer = len(host.layers) * 2 // 3
        self.ffn = host.ffn(self.layer)
        space = scoped_space(host, facts, self.layer, width=min(64, host.width), seed=seed)
        self.centre, self.projection = space.centre, space.projection  # (d,), (k, d)
        self.threshold = similarity_threshold(space.addresses, space.data, false_alarms=3.5e-4)
        self.experts: list[nn.Module] = []
        self.anchors: dict[tuple[int, ...], tuple[Tensor, int]] = {}  # prompt: address (k,), expert

    def edit(self, batch: EditBatch) -> None:
        """Add an expert, train it on the batch, freeze it; every edit leaves an anchor."""
        sequences = [self.host.encode(edit.prompt, edit.target) for edit in batch]
        for sequence in sequences:  # the newest edit of a prompt takes the older one's place
            self.anchors[sequence.prompt] = self.address(sequence.prompt), len(self.experts)
        expert = self.new_expert()
        optimizer = torch.optim.AdamW(expert.parameters(), self.learning_rate, weight_decay=0.0)
        for _ in range(self.steps):
            losses = [self.losses(s.prompt, s.target, expert) for s in sequences]
            loss = torch.cat(losses).mean()  # over every token of every target
            if loss.item() < self.loss_threshold:
                break
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        self.experts.append(expert.requires_grad_(False))

    def new_expert(self) -> nn.Module:
        """An FFN of the host's own kind that is silent at birth: its last matrix is zero."""
        generator = torch.Generator().manual_seed(self.seed * 100_003 + len(self.experts) + 1)
        expert = copy.deepcopy(self.ffn).float().requires_grad_(True)
        *inner, last = linears(expert)
        with torch.no_grad():
            for weight in (linear.weight for linear in inner):  # (hidden, d)
                start = torch.randn(weight.shape, generator=generator)
                weight.copy_(start / weight.shape[1] ** 0.5)
            last.weight.zero_()
        return expert

    def losses(self, prompt: Sequence[int], target: Sequence[int], expert: nn.Module) -> Tensor:
        """-log p of every token of a target, (n,), with one expert beside the FFN."""
        ids = torch.tensor([[*prompt, *target]])  # (1, L)
        with self.beside(expert):
            logits = self.host.model(input_ids=ids).logits[0]  # (L, V)
        predicting = logits[len(prompt) - 1 : -1].float()  # (n, V)
        return F.cross_entropy(predicting, torch.tensor(target), reduction="none")

    @torch.no_grad()
    def address(self, prompt: Sequence[int]) -> Tensor:
        """Where a prompt lies in the calibrated space: a unit vector (k,)."""
        seen: list[Tensor] = []
        handle = self.ffn.register_forward_pre_hook(lambda _ffn, args: seen.append(args[0]))
        try:
            self.host.model(input_ids=torch.tensor([list(prompt)]))
        finally:
            handle.remove()
        state = seen[0][0, -1].float()  # (d,), what enters the FFN at the prompt's last token
        return F.normalize(self.projection @ (state - self.centre), dim=0)

    def route(self, prompt: Sequence[int]) -> nn.Module | None:
        """The expert that answers a prompt; None leaves it to the host alone."""
        if not self.anchors:
            return None
        vectors, experts = zip(*self.anchors.values(), strict=True)
        similarity = torch.stack(vectors) @ self.address(prompt)  # (A,)
        nearest = int(similarity.argmax())
        near_enough = similarity[nearest] >= self.threshold.among(len(vectors))
        return self.experts[experts[nearest]] if near_enough else None

    @torch.no_grad()
    def answer(self, text: str, tokens: int = 24) -> list[int]:
        """Greedy token ids after a prompt, up to the stop token, which is left out.

        The prompt alone decides the route, and the whole answer keeps it.
        """
        prompt = self.host.encode_prompt(text)
        expert, answer = self.route(prompt), []
        while len(answer) < tokens:
            with self.beside(expert):
                logits = self.host.model(input_ids=torch.tensor([[*prompt, *answer]])).logits
            answer.append(int(logits[0, -1].argmax()))
            if answer[-1] == self.host.stop_token:
                return answer[:-1]
        return answer

    @contextmanager
    def beside(self, expert: nn.Module | None) -> Iterator[None]:
        """Add an expert's output to that of the FFN until the block ends."""

        def add(_ffn: nn.Module, args: tuple, output: Tensor) -> Tensor:
            return output if expert is None else (output + expert(args[0].float())).to(output.dtype)

        handle = self.ffn.register_forward_hook(add)
        try:
            yield
        finally:
            handle.remove()
