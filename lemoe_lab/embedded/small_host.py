"""A small host trained from scratch on your own texts: real tokens and lengths, in seconds.

    stream = datasets.zsre("zsre_mend_eval.json", edits=100)
    host = train_small_host(known_texts(stream), steps=150, seed=0)

It knows the words of the texts and some of what they say, which is enough to try every editor on a
data set before a large host takes hours.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from tqdm.auto import tqdm

from ..edits import EditStream
from ..host import Host
from ..joining import joined
from .pretrain import (
    PretrainConfig,
    Row,
    batches,
    build_model,
    learning_rate,
    new_optimizer,
    train_batch,
    train_tokenizer,
)

SMALL = PretrainConfig(
    vocabulary=2048,
    hidden=96,
    intermediate=256,
    layers=4,
    heads=4,
    context=512,
    initializer_range=0.1,  # about 1 / sqrt(hidden): tied embeddings too short are never sure
    batch_size=32,
    learning_rate=3e-3,
    warmup=0.1,
)


def train_small_host(
    texts: Sequence[str],
    steps: int = 150,
    seed: int = 0,
    config: PretrainConfig = SMALL,
    progress: bool = True,
) -> Host:
    """A Llama and a byte-level BPE tokenizer, both trained on ``texts``.

    Parameters
    ----------
    texts
        What it reads, each text on its own and up to the context; what lies beyond is not read.
    steps
        Optimiser steps. The same texts, steps, seed and settings give the same host on one machine.
    seed
        Decides the weights at birth and the order of the texts.
    config
        Sizes of model, vocabulary, context and batch; its ``seed`` and ``epochs`` are not used.
    progress
        Show a progress bar.

    Raises
    ------
    ValueError
        Without any text, or with less than one step.
    """
    if not any(text.strip() for text in texts):
        raise ValueError("there is no text to learn from; give at least one")
    if steps < 1:
        raise ValueError(f"steps must be at least 1, not {steps}")
    config = replace(config, seed=seed)
    tokenizer = train_tokenizer(list(texts), config.vocabulary, config.context)
    rows = []
    for text in texts:
        tokens = [*tokenizer(text)["input_ids"], tokenizer.eos_token_id][: config.context]
        rows.append(Row(tuple(tokens), (1.0,) * len(tokens)))
    with torch.random.fork_rng(devices=[]):
        model = build_model(config, tokenizer).train()
    optimizer = new_optimizer(model, config)
    todo = _endless(rows, config.batch_size, seed)
    for step in tqdm(range(steps), desc="small host", disable=not progress):
        rate = learning_rate(config, step / steps)
        train_batch(model, optimizer, next(todo), tokenizer.pad_token_id, rate)
    return Host(model, tokenizer, "small host")


def known_texts(stream: EditStream) -> list[str]:
    """What a host may have read before it is edited: never a new target.

    Prompts and rephrases with the old answer, if the file has one, locality prompts with theirs,
    and the prompts that calibrate routers.
    """
    texts = []
    for edit in stream.edits:
        prompts = [edit.prompt, *(rephrase.prompt for rephrase in edit.rephrases)]
        texts += [joined(prompt, edit.old_answer or "") for prompt in prompts]
        texts += [joined(asked.prompt, asked.target or "") for asked in edit.locality]
    texts += [prompt for fact in stream.calibration for prompt in fact.prompts]
    return list(dict.fromkeys(text.strip() for text in texts))


def _endless(rows: list[Row], batch_size: int, seed: int) -> Iterator[list[Row]]:
    """Batches of all rows, then of all rows in another order, and so on."""
    epoch = 0
    while True:
        yield from batches(rows, batch_size, seed * 1000 + epoch)
        epoch += 1
