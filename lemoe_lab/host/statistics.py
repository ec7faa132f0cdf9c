"""Second moments of what enters an FFN's output projection, over the host's own text.

    sample = TextSample(tokens=20_000, seed=0)
    moments = second_moments(host, layers=[2, 3], sample=sample)      # {2: (m, m), 3: (m, m)}

The host writes the text itself, from its start token at temperature 1, so that every host has some
without any data. Statistics are found out once: they stay in memory as long as the host does, and
beside a host that was loaded from a folder of one's own.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from .encoding import TokenSequence
from .hooks import hung, on_output
from .kept import cached_on
from .model import Host
from .states import length_buckets

ROWS = 256  # texts that are written side by side


@dataclass(frozen=True)
class TextSample:
    """Which text statistics are taken over.

    Parameters
    ----------
    tokens
        How many tokens the host writes, at least; the last text is not cut.
    length
        The longest text in tokens.
    seed
        Of the sampling.
    texts
        Texts to read instead of those that the host would write.
    """

    tokens: int = 20_000
    length: int = 32
    seed: int = 0
    texts: tuple[str, ...] = ()

    def rows(self, host: Host) -> list[tuple[int, ...]]:
        """Token ids of every text, its start token included."""
        if self.texts:
            limit = host.context
            return [host.encoding.plain(text)[:limit] for text in self.texts]
        return own_text(host, self.tokens, self.length, self.seed)

    def key(self) -> str:
        """A short name; different samples have different ones."""
        description = (self.tokens, self.length, self.seed, self.texts)
        return hashlib.sha256(repr(description).encode()).hexdigest()[:16]


def own_text(host: Host, tokens: int, length: int, seed: int) -> list[tuple[int, ...]]:
    """Texts of at most ``length`` tokens that the host writes, ``tokens`` of them in all.

    Each begins with the start token and ends before the stop token. The sampling has its own
    generator: it neither reads nor moves the global one.
    """
    generator = torch.Generator().manual_seed(seed)
    texts: list[tuple[int, ...]] = []
    while sum(map(len, texts)) < tokens:
        for row in _sampled(host, ROWS, length, generator).tolist():
            end = row.index(host.stop_token, 1) if host.stop_token in row[1:] else len(row)
            texts.append(tuple(row[:end]))
    return texts


def openings(host: Host, count: int, length: int, seed: int) -> Tensor:
    """Token ids (count, length) of beginnings of the host's own text, without the start token."""
    if count == 0:
        return torch.empty(0, length, dtype=torch.long)
    generator = torch.Generator().manual_seed(seed)
    return _sampled(host, count, length + 1, generator, never=host.stop_token)[:, 1:]


@torch.no_grad()
def _sampled(
    host: Host, count: int, length: int, generator: torch.Generator, never: int | None = None
) -> Tensor:
    """Token ids (count, up to length) sampled at temperature 1 after the start token.

    It ends early once every text has a stop token; ``never`` is a token that is not written.
    """
    tokens = torch.full((count, 1), host.encoding.start_token)
    stopped = torch.zeros(count, dtype=torch.bool)
    cache = None
    while tokens.shape[1] < min(length, host.context) and not stopped.all():
        fresh = tokens[:, -1:].to(host.device)
        output = host.model(input_ids=fresh, past_key_values=cache, use_cache=True)
        cache = output.past_key_values
        logits = output.logits[:, -1].float().cpu()  # (count, V)
        if never is not None:
            logits[:, never] = -torch.inf
        drawn = torch.multinomial(logits.softmax(-1), 1, generator=generator)
        tokens = torch.cat([tokens, drawn], 1)
        stopped |= drawn[:, 0] == host.stop_token
    return tokens


def second_moments(host: Host, layers: Sequence[int], sample: TextSample) -> dict[int, Tensor]:
    """E[k k^T] (m, m), float32, of the inputs k of each layer's FFN output projection.

    Must be called while nothing is applied to the host.
    """
    known: dict[str, Tensor] = cached_on(host, "second moments", dict)
    fingerprint = host.fingerprint()[:16]
    keys = {layer: f"{fingerprint}-layer{layer}-{sample.key()}" for layer in layers}
    for key in keys.values():
        if key not in known and (saved := _read(host, key)) is not None:
            known[key] = saved
    missing = [layer for layer in layers if keys[layer] not in known]
    if missing:
        rows = sample.rows(host)
        for layer, moment in _measured(host, missing, rows).items():
            known[keys[layer]] = moment
            _write(host, keys[layer], moment)
    return {layer: known[key].to(host.device) for layer, key in keys.items()}


@torch.no_grad()
def _measured(
    host: Host, layers: Sequence[int], rows: Sequence[tuple[int, ...]]
) -> dict[int, Tensor]:
    projections = {layer: host.ffn_output(layer) for layer in layers}
    sequences = [TokenSequence(row, ()) for row in rows]
    sums: dict[int, Tensor] = {}
    for chunk in length_buckets(sequences, ROWS):
        texts = [sequences[i] for i in chunk]
        ids = host.pad(texts)  # (B, L)
        lengths = torch.tensor([len(text) for text in texts], device=host.device)
        inside = torch.arange(ids.shape[1], device=host.device) < lengths[:, None]
        with recorded(list(projections.values())) as calls:
            host.decoder(input_ids=ids, use_cache=False)
        for layer, projection in projections.items():
            keys = calls[projection][0][inside].float()  # (tokens, m)
            sums[layer] = sums.get(layer, 0) + (keys.T @ keys).double()
    tokens = sum(map(len, sequences))
    return {layer: (total / tokens).float().cpu() for layer, total in sums.items()}


@contextmanager
def recorded(modules: Sequence[nn.Module]) -> Iterator[dict[nn.Module, tuple[Tensor, Tensor]]]:
    """The first input and the output of every module's latest call, by module."""
    calls: dict[nn.Module, tuple[Tensor, Tensor]] = {}

    def remember(module: nn.Module, x: Tensor, output: Tensor) -> None:
        calls[module] = (x, output)

    with hung(*(on_output(module, partial(remember, module)) for module in modules)):
        yield calls


def _file(host: Host, key: str) -> Path | None:
    return None if host.folder is None else host.folder / "statistics" / f"{key}.safetensors"


def _read(host: Host, key: str) -> Tensor | None:
    """What was saved beside the host, if it is there and whole."""
    path = _file(host, key)
    if path is None or not path.exists():
        return None
    try:
        return load_file(path)["moment"]
    except (OSError, SafetensorError, KeyError):
        return None


def _write(host: Host, key: str, moment: Tensor) -> None:
    """Save beside the host; a folder that takes no files costs a later process the computation.

    Processes that write the same file at once each have a temporary one of their own.
    """
    path = _file(host, key)
    if path is None:
        return
    temporary = path.with_name(f".{key}.{os.getpid()}.tmp")
    with suppress(OSError, SafetensorError):
        path.parent.mkdir(exist_ok=True)
        try:
            save_file({"moment": moment.contiguous()}, temporary)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
