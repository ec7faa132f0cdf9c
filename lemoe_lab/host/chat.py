"""A chat template around every prompt, and what it says about answers.

chat = Chat.of(tokenizer, True)        # the tokenizer's own template, or a Jinja text
chat.wrap("Who is the mayor of Gemland?")
chat.joint, chat.end                   # what stands before an answer, what ends it
"""

from __future__ import annotations

from dataclasses import dataclass

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from ..edits import EditError

ASKED, SAID = "xqaskedqx", "xqsaidqx"  # words that no template contains


@dataclass(frozen=True)
class Chat:
    """A template in use.

    Attributes
    ----------
    template
        Its Jinja text.
    joint
        The blanks that it puts between the opened answer and the answer; None if it does not show.
    end
        What it writes after an answer, blanks before that left out; "" for nothing.
    """

    tokenizer: PreTrainedTokenizerBase
    template: str
    joint: str | None
    end: str

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase, chat: bool | str) -> Chat:
        """The tokenizer's own template for True, the one of its templates that has this name, or
        this Jinja text.

        Raises
        ------
        ValueError
            If there is no template, or it fails, or leaves out what was asked.
        """
        if isinstance(chat, str) and not chat.strip():
            raise ValueError("the chat template is empty; pass chat=True or a Jinja template")
        try:
            template = tokenizer.get_chat_template(None if chat is True else chat)
        except ValueError as error:
            raise ValueError(
                "chat=True needs a tokenizer with a chat template (several: with one called "
                f"'default'), and {tokenizer.name_or_path or 'this one'!r} has none; "
                'pass the Jinja text of the template, chat="...", or its name'
            ) from error
        question = [{"role": "user", "content": ASKED}]
        try:
            opened = _rendered(tokenizer, template, question, True)
        except (TemplateError, TypeError, KeyError) as error:
            raise ValueError(
                f"the chat template fails on one message of the user ({error}); "
                'pass another one, chat="<Jinja text>"'
            ) from error
        if ASKED not in opened:
            raise ValueError(
                "the chat template leaves out what the user says, so every prompt would be the "
                "same; it has to write message['content'] of every message"
            )
        return cls(tokenizer, template, *_around_answer(tokenizer, template, question, opened))

    def wrap(self, prompt: str) -> str:
        """The prompt as the only message of a user, up to where the answer begins.

        Raises
        ------
        EditError
            If the template fails on this prompt.
        """
        message = {"role": "user", "content": prompt.strip()}
        try:
            return _rendered(self.tokenizer, self.template, [message], True)
        except (TemplateError, TypeError, KeyError) as error:
            raise EditError(
                f"the chat template fails on the prompt {prompt[:60]!r}: {error}"
            ) from error


def _around_answer(
    tokenizer: PreTrainedTokenizerBase, template: str, question: list[dict], opened: str
) -> tuple[str | None, str]:
    """What stands before and after an answer in a conversation that ends with one."""
    answer = {"role": "assistant", "content": SAID}
    try:
        closed = _rendered(tokenizer, template, [*question, answer], False)
    except (TemplateError, TypeError, KeyError):  # it takes questions only
        return None, ""
    before, said, after = closed.rpartition(SAID)
    if not said:
        return None, ""
    between = before.removeprefix(opened)
    shown = before.startswith(opened) and not between.strip()
    return (between if shown else None), after.lstrip()


def _rendered(
    tokenizer: PreTrainedTokenizerBase, template: str, messages: list[dict], open_answer: bool
) -> str:
    return tokenizer.apply_chat_template(
        messages, chat_template=template, tokenize=False, add_generation_prompt=open_answer
    )
