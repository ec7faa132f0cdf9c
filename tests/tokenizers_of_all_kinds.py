"""Tokenizers as they come with models, each trained on a few lines, and a tiny host for any."""

from __future__ import annotations

import torch
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizer,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from lemoe_lab import Host

TEXTS = [
    "The capital of Gemland is Grolwick",
    "Annapolis is where Ann Lee lives, and Lee met Ann.",
    "Who is the mayor of Gemland?\nuser assistant system",
    "The mayor said: “yes”",
    "首都是北京 宝石国的首都是宝石城 北京大学在北京",
    "เมืองหลวงคือกรุงเทพ 日本の首都は東京",
] * 3
END = "<|end|>"
ALPHABET = pre_tokenizers.ByteLevel.alphabet()


def trained(tokenizer: Tokenizer, kind: type, specials: list[str], **options) -> Tokenizer:
    trainer = kind(vocab_size=600, special_tokens=specials, show_progress=False, **options)
    tokenizer.train_from_iterator(TEXTS, trainer)
    return tokenizer


def byte_level(specials: tuple[str, ...] = (END,), **named: str) -> PreTrainedTokenizerFast:
    """GPT-2's kind: nothing is put around a text, and there is no start or pad token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trained(tokenizer, trainers.BpeTrainer, list(specials), initial_alphabet=ALPHABET)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **(named or {"eos_token": END}))


def closing() -> PreTrainedTokenizerFast:
    """One that opens every text with <s> and closes it with </s>."""
    tokenizer = byte_level(("<s>", "</s>"), bos_token="<s>", eos_token="</s>")
    ids = [(token, tokenizer.convert_tokens_to_ids(token)) for token in ("<s>", "</s>")]
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=ids
    )
    return tokenizer


def metaspace() -> PreTrainedTokenizerFast:
    """Llama 2's kind: a blank before every text."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    trained(tokenizer, trainers.BpeTrainer, ["<unk>", "<s>", "</s>"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


class Characters(PreTrainedTokenizer):
    """A slow tokenizer: one token a character, no offsets."""

    def __init__(self, **named: str) -> None:
        letters = sorted({*"".join(TEXTS), *(chr(code) for code in range(32, 127)), "\n", "é"})
        self.letters = {letter: number for number, letter in enumerate(letters)}
        super().__init__(**({"eos_token": "</s>", "unk_token": "<unk>"} | named))

    @property
    def vocab_size(self) -> int:
        return len(self.letters)

    def get_vocab(self) -> dict[str, int]:
        return self.letters | self.added_tokens_encoder

    def _tokenize(self, text: str, **_: object) -> list[str]:
        return list(text)

    def _convert_token_to_id(self, token: str) -> int:
        return self.letters.get(token, self.unk_token_id)

    def _convert_id_to_token(self, index: int) -> str:
        return next(letter for letter, number in self.letters.items() if number == index)

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        return "".join(tokens)


KINDS = {
    "byte level": byte_level,
    "closing": closing,
    "metaspace": metaspace,
    "slow": Characters,
}


def tiny_host(tokenizer: PreTrainedTokenizerBase, vocabulary: int | None = None, **options) -> Host:
    """A random Llama of two layers with an embedding for every token, or for ``vocabulary``."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocabulary or len(tokenizer),
        hidden_size=32,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        initializer_range=0.2,
        max_position_embeddings=256,
        bos_token_id=None,
        eos_token_id=options.pop("model_stop", None),
        pad_token_id=None,
    )
    return Host(LlamaForCausalLM(config), tokenizer, "tiny", **options)
