"""Where prompts end, in tokens.

    ends = PromptEnds(host)
    handle = ends.attach()
    ends.current                                  # inside a forward pass: (B,), or None

Targets that are fed in and tokens that were generated are no part of a prompt.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from .host import Host


def prompt_mask(host: Host, args: tuple, kwargs: dict) -> Tensor | None:
    """Which tokens (B, L) of a forward pass of the decoder are prompt.

    Takes the arguments of that pass; None while it continues a prompt that is in its cache.
    """
    cache = kwargs.get("past_key_values")
    if cache is not None and cache.get_seq_length() > 0:
        return None
    inputs = args[0] if args else kwargs.get("input_ids")
    if inputs is None:
        inputs = kwargs["inputs_embeds"]
    length = inputs.shape[1]
    if host.prompt_lengths is not None:
        return torch.arange(length, device=inputs.device) < host.prompt_lengths[:, None]
    mask = kwargs.get("attention_mask")
    if not isinstance(mask, Tensor) or mask.dim() != 2:  # a static cache passes a dict of masks
        return torch.ones(inputs.shape[:2], dtype=torch.bool, device=inputs.device)
    return mask.bool()


def last_tokens(mask: Tensor) -> Tensor:
    """The last True place of every row of a mask (B, L), (B,)."""
    return (mask * torch.arange(1, mask.shape[1] + 1, device=mask.device)).argmax(1)


class PromptEnds:
    """Tells what hangs on a layer where the prompts of the current forward pass end."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self._last: Tensor | None = None

    def attach(self) -> RemovableHandle:
        """Follow the forward passes of the host until the handle is removed."""

        def look(_module: nn.Module, args: tuple, kwargs: dict) -> None:
            mask = prompt_mask(self.host, args, kwargs)
            self._last = None if mask is None else last_tokens(mask)

        return self.host.decoder.register_forward_pre_hook(look, with_kwargs=True)

    @property
    def current(self) -> Tensor | None:
        """The last prompt token (B,) of every row; None while decoding after a cached prompt."""
        if self.host.prompt_lengths is not None:
            return self.host.prompt_lengths - 1
        return self._last
