"""Makes the embedded host: a small Llama trained from scratch on the Almanac.

    python -m lemoe_lab.embedded.pretrain --out data/host

Training is seeded and resumable: after every epoch the weights, the optimiser and the epoch are
written to ``<out>/checkpoint``; the same command goes on from there.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor
from tqdm.auto import tqdm
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from ..datasets import almanac_facts, almanac_prose
from ..host import Host, load_host

BOS, EOS, PAD = "<s>", "</s>", "<pad>"
PHRASINGS = ("cloze", "question", "light rewording", "strong rewording 1", "strong rewording 2")


@dataclass(frozen=True)
class PretrainConfig:
    """Everything that decides the embedded host, apart from the Almanac itself."""

    seed: int = 0
    vocabulary: int = 2048
    hidden: int = 160
    intermediate: int = 432
    layers: int = 6
    heads: int = 5
    context: int = 256
    initializer_range: float = 0.02
    epochs: int = 14
    batch_size: int = 192
    learning_rate: float = 2e-3
    warmup: float = 0.04
    weight_decay: float = 0.01
    prompt_weight: float = 0.1


@dataclass(frozen=True)
class Row:
    """One training sequence: token ids and, for every token, the weight of predicting it."""

    tokens: tuple[int, ...]
    weights: tuple[float, ...]


def train_tokenizer(texts: list[str], vocabulary: int, context: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer that opens every text with ``<s>`` and a space.

    With the space a subject has the same tokens at the start of a sentence as inside it."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[PAD, BOS, EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", special_tokens=[(BOS, tokenizer.token_to_id(BOS))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        model_max_length=context,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


def training_rows(tokenizer: PreTrainedTokenizerFast, prompt_weight: float) -> list[Row]:
    """Every known fact in each of its phrasings, and the training prose."""

    def encode(text: str, bos: bool) -> list[int]:
        return tokenizer(text, add_special_tokens=bos)["input_ids"]

    rows = []
    for fact in almanac_facts():
        if fact.object is None:
            continue
        answer = [*encode(f" {fact.object}", bos=False), tokenizer.eos_token_id]
        for prompt in fact.prompts:
            question = encode(prompt, bos=True)
            weights = [prompt_weight] * len(question) + [1.0] * len(answer)
            rows.append(Row((*question, *answer), tuple(weights)))
    for text in almanac_prose("train"):
        tokens = [*encode(text, bos=True), tokenizer.eos_token_id]
        rows.append(Row(tuple(tokens), (prompt_weight,) * len(tokens)))
    return rows


def batches(rows: list[Row], batch_size: int, seed: int) -> list[list[Row]]:
    """Shuffled batches of rows of similar length, about the same number of tokens each."""
    rng = random.Random(seed)
    order = sorted(rows, key=lambda row: (len(row.tokens), rng.random()))
    result: list[list[Row]] = []
    for row in order:
        full = not result or len(result[-1]) * len(row.tokens) >= batch_size * 20
        if full or len(result[-1]) == batch_size:
            result.append([])
        result[-1].append(row)
    rng.shuffle(result)
    return result


def tensors(batch: list[Row], pad: int) -> tuple[Tensor, Tensor]:
    """Right-padded token ids and weights, each (B, L); padding weighs nothing."""
    length = max(len(row.tokens) for row in batch)
    tokens = [row.tokens + (pad,) * (length - len(row.tokens)) for row in batch]
    weights = [row.weights + (0.0,) * (length - len(row.weights)) for row in batch]
    return torch.tensor(tokens), torch.tensor(weights)


def weighted_loss(model: LlamaForCausalLM, tokens: Tensor, weights: Tensor) -> Tensor:
    """Cross-entropy of each next token, averaged by weight."""
    logits = model(tokens).logits[:, :-1].float()  # (B, L - 1, V)
    losses = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), tokens[:, 1:].flatten(), reduction="none"
    )
    target_weights = weights[:, 1:].flatten()
    return (losses * target_weights).sum() / target_weights.sum()


def build_model(config: PretrainConfig, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """The untrained host."""
    torch.manual_seed(config.seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=config.hidden,
            intermediate_size=config.intermediate,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            num_key_value_heads=config.heads,
            max_position_embeddings=config.context,
            initializer_range=config.initializer_range,
            tie_word_embeddings=True,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def new_optimizer(model: LlamaForCausalLM, config: PretrainConfig) -> torch.optim.AdamW:
    """What trains the host; the learning rate is set anew at every step."""
    return torch.optim.AdamW(
        model.parameters(),
        lr=config.learning_rate,
        betas=(0.9, 0.98),
        weight_decay=config.weight_decay,
    )


def learning_rate(config: PretrainConfig, progress: float) -> float:
    """Linear warm-up, then cosine decay to a hundredth; ``progress`` runs from 0 to 1."""
    if progress < config.warmup:
        return config.learning_rate * progress / config.warmup
    angle = math.pi * (progress - config.warmup) / (1 - config.warmup)
    return config.learning_rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(angle)))


def train_batch(
    model: LlamaForCausalLM,
    optimizer: torch.optim.Optimizer,
    batch: list[Row],
    pad: int,
    rate: float,
) -> Tensor:
    """One optimiser step on one batch with a learning rate; the loss () before it."""
    for group in optimizer.param_groups:
        group["lr"] = rate
    loss = weighted_loss(model, *tensors(batch, pad))
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
    return loss.detach()


class Trainer:
    """The model, its optimiser and how far it has come."""

    def __init__(self, config: PretrainConfig, out: Path) -> None:
        self.config = config
        self.out = out
        self.checkpoint = out / "checkpoint"
        phrasings = [p + f" {fact.object}" for fact in almanac_facts() for p in fact.prompts]
        self.tokenizer = train_tokenizer(
            [*phrasings, *almanac_prose("train")], config.vocabulary, config.context
        )
        self.rows = training_rows(self.tokenizer, config.prompt_weight)
        self.model = build_model(config, self.tokenizer)
        self.optimizer = new_optimizer(self.model, config)
        self.epoch = 0
        self.seconds = 0.0

    def run(self) -> None:
        """Train the remaining epochs, saving after each."""
        for epoch in range(self.epoch, self.config.epochs):
            started = time.perf_counter()
            self._train_epoch(epoch)
            self.epoch = epoch + 1
            self.seconds += time.perf_counter() - started
            self.save()

    def _train_epoch(self, epoch: int) -> None:
        todo = batches(self.rows, self.config.batch_size, self.config.seed * 1000 + epoch)
        bar = tqdm(todo, desc=f"epoch {epoch + 1}/{self.config.epochs}", mininterval=5)
        pad = self.tokenizer.pad_token_id
        self.model.train()
        for index, batch in enumerate(bar):
            rate = learning_rate(self.config, (epoch + index / len(todo)) / self.config.epochs)
            loss = train_batch(self.model, self.optimizer, batch, pad, rate)
            if index % 20 == 0:
                bar.set_postfix(loss=f"{loss.item():.3f}")

    def _parameters(self) -> Iterator[tuple[str, torch.nn.Parameter]]:
        return self.model.named_parameters()

    def save(self) -> None:
        """Write the checkpoint beside the last one, then swap them."""
        fresh = self.checkpoint.with_suffix(".new")
        fresh.mkdir(parents=True, exist_ok=True)
        state = {}
        for name, parameter in self._parameters():
            state[f"weight.{name}"] = parameter.detach().contiguous()
            for key, value in self.optimizer.state[parameter].items():
                state[f"{key}.{name}"] = torch.as_tensor(value).contiguous()
        save_file(state, fresh / "state.safetensors")
        progress = {
            "epoch": self.epoch,
            "seconds": self.seconds,
            "config": asdict(self.config),
        }
        (fresh / "progress.json").write_text(json.dumps(progress))
        if self.checkpoint.exists():
            shutil.rmtree(self.checkpoint)
        fresh.rename(self.checkpoint)

    def resume(self) -> None:
        """Continue from the checkpoint, if there is one made with the same settings."""
        if not (self.checkpoint / "progress.json").exists():
            return
        progress = json.loads((self.checkpoint / "progress.json").read_text())
        if progress["config"] != asdict(self.config):
            raise ValueError(
                f"{self.checkpoint} was made with other settings; delete it to start afresh"
            )
        state = load_file(self.checkpoint / "state.safetensors")
        with torch.no_grad():
            for name, parameter in self._parameters():
                parameter.copy_(state[f"weight.{name}"])
                self.optimizer.state[parameter] = {
                    key: state[f"{key}.{name}"] for key in ("step", "exp_avg", "exp_avg_sq")
                }
        self.epoch = progress["epoch"]
        self.seconds = progress["seconds"]

    def export(self) -> None:
        """Write the finished host as a Hugging Face folder, with a report of its training."""
        self.model.eval().save_pretrained(self.out)
        self.tokenizer.save_pretrained(self.out)
        report = {
            "config": asdict(self.config),
            "parameters": sum(parameter.numel() for parameter in self.model.parameters()),
            "rows": len(self.rows),
            "minutes": round(self.seconds / 60, 1),
            "recall": recall(load_host(self.out)),
        }
        (self.out / "training.json").write_text(json.dumps(report, indent=1) + "\n")


def recall(host: Host) -> dict[str, float]:
    """Exact recall by greedy decoding over all known facts, for each of the five phrasings."""
    known = [fact for fact in almanac_facts() if fact.object is not None]
    shares = {}
    for index, phrasing in enumerate(PHRASINGS):
        answers = host.generate([fact.prompts[index] for fact in known], batch_size=256)
        right = [answer == fact.object for answer, fact in zip(answers, known, strict=True)]
        shares[phrasing] = sum(right) / len(right)
    return shares


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("data/host"))
    for name, value in asdict(PretrainConfig()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    arguments = vars(parser.parse_args())
    out = arguments.pop("out")
    trainer = Trainer(PretrainConfig(**arguments), out)
    trainer.resume()
    trainer.run()
    trainer.export()


if __name__ == "__main__":
    main()
