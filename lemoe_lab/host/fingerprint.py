"""What a model's weights are, as one hash: equal for equal weights on any machine.

fingerprint = Fingerprint()
fingerprint.of(model)           # all bytes are hashed
fingerprint.of(model)           # only those of tensors that were written to since
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

BLOCK = 512  # words of eight bytes that are summed to notice that one of them changed


@dataclass(frozen=True)
class Hashed:
    """The hash of a tensor's bytes, and the sums (n,) of its blocks at that time."""

    sums: Tensor
    digest: str


class Fingerprint:
    """Hashes models, and remembers the hash of every tensor until it is written to.

    A tensor counts as the one that was hashed if it lies at the same place in the same shape, no
    operation wrote to it in place (autograd counts these), and the sums over blocks of its bytes
    are the same. The sums show what autograd does not count: writes through ``.data`` or NumPy, and
    other data that came to lie at the same place. They cost a tenth of hashing.
    """

    def __init__(self) -> None:
        self._known: dict[Hashable, Hashed] = {}

    def of(self, model: nn.Module) -> str:
        """The hash of a model's class, and of name, shape, type and bytes of all its tensors.

        Raises
        ------
        ValueError
            If a tensor is not in memory, because a device map offloads it.
        """
        digest = hashlib.sha256(type(model).__name__.encode())
        known: dict[Hashable, Hashed] = {}
        for name, tensor in sorted(model.state_dict(keep_vars=True).items()):
            if tensor.is_meta:
                raise ValueError(
                    f"{name} is not in memory, because the device map offloads it, so nothing "
                    "tells whether it is what was edited; load the model without offloading"
                )
            key = _place(tensor)
            if key not in known:  # tied weights are one
                known[key] = self._hashed(key, tensor.detach())
            shape = f"{name}{tuple(tensor.shape)}{tensor.dtype}"
            digest.update(f"{shape}{known[key].digest}".encode())
        self._known = known
        return digest.hexdigest()

    def _hashed(self, key: Hashable, tensor: Tensor) -> Hashed:
        words, rest = _words(tensor)
        sums = _sums(words, rest)
        before = self._known.get(key)
        if before is not None and torch.equal(before.sums, sums):
            return before
        return Hashed(sums, _digest(words, rest))


def _place(tensor: Tensor) -> Hashable:
    """Where a tensor lies, how, and how often it was written to in place."""
    shape = tuple(tensor.shape), tensor.stride(), tensor.dtype, tensor.device
    written = 0 if tensor.is_inference() else tensor._version
    return tensor.data_ptr(), written, *shape


def _words(tensor: Tensor) -> tuple[Tensor, Tensor]:
    """The bytes of a tensor in eights (n,) int64, and those that are left over (m,) uint8."""
    content = tensor.contiguous().view(-1).view(torch.uint8)
    if content.storage_offset() % 8:
        content = content.clone()
    whole = len(content) // 8 * 8
    return content[:whole].view(torch.int64), content[whole:]


def _digest(*parts: Tensor) -> str:
    """A hash of the bytes of tensors, one after the other."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.cpu().numpy())
    return digest.hexdigest()


def _sums(words: Tensor, rest: Tensor) -> Tensor:
    """Sums of blocks of words, the last block being shorter, and the bytes that are left over."""
    whole = len(words) // BLOCK * BLOCK
    blocks = words[:whole].view(-1, BLOCK).sum(1)
    return torch.cat([blocks, words[whole:], rest.long()])
