"""Questions to the host with and without the edits, and where its router sends them.

answer = ask(session, "The prime minister of Gemland is")
answer.base, answer.edited, answer.route.expert
answer_html(answer)
"""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd
import torch

from ...edits import Edit, trimmed_prompt
from ...session import EditSession
from .elements import code, escape, number, table_html
from .history import History
from .routes import PromptRoute, expert_name, prompt_routes, route_html

TOP = 5
BAR = 8  # characters of a bar for probability 1
Tokens = tuple[tuple[str, float], ...]  # pieces of text with their probabilities


@dataclass(frozen=True)
class Answer:
    """What the host says after ``prompt`` without (base) and with the edits applied now."""

    prompt: str
    step: int
    base: str
    edited: str
    base_tokens: Tokens
    edited_tokens: Tokens
    route: PromptRoute | None


@dataclass(frozen=True)
class OpenedEdit:
    """One edit with its state, the answers to its prompt and its rephrases, its expert by step."""

    edit: Edit
    state: str
    base: list[str]
    edited: list[str]
    path: dict[int, int]


def open_edit(session: EditSession, history: History, edit: str) -> OpenedEdit:
    """Look closely at one edit of the stream, by its id."""
    found = next(one for one in session.stream.edits if one.id == edit)
    state = history.edits().set_index("edit")["state"][edit]
    prompts = [found.prompt, *(rephrase.prompt for rephrase in found.rephrases)]
    with session.editor.disabled():
        base = session.host.generate(prompts)
    return OpenedEdit(found, state, base, session.host.generate(prompts), history.path_of(edit))


def ask(session: EditSession, prompt: str) -> Answer:
    """Ask the host both ways; an EditError says if the prompt is empty or too long for it."""
    prompt, host, editor = trimmed_prompt(prompt), session.host, session.editor
    host.encode_prompt(prompt)
    with editor.disabled():
        base, base_tokens = host.generate(prompt), next_tokens(session, prompt)
    edited, tokens = host.generate(prompt), next_tokens(session, prompt)
    routes = prompt_routes(session, editor.prompt_features([prompt])) or [None]
    return Answer(prompt, session.steps, base, edited, base_tokens, tokens, routes[0])


@torch.no_grad()
def next_tokens(session: EditSession, prompt: str, count: int = TOP) -> Tokens:
    """The most probable next tokens after a prompt, with what is applied now."""
    host = session.host
    ids = torch.tensor([host.encode_prompt(prompt)], device=host.device)  # (1, L)
    logits = host.model(input_ids=ids, use_cache=False).logits[0, -1].float()  # (V,)
    best = logits.softmax(-1).topk(min(count, len(logits)))
    pieces = [host.tokenizer.decode([index]) for index in best.indices.tolist()]
    return tuple(zip(pieces, best.values.tolist(), strict=True))


# As safe HTML


def answer_html(answer: Answer) -> str:
    """An answer as two columns, unedited and edited, and where its prompt went."""
    parts = {
        "Unedited": _said(answer.base, answer.base_tokens),
        f"After {answer.step} batches": _said(answer.edited, answer.edited_tokens),
        "Route": "<p>This editor changes the network for every prompt alike.</p>",
    }
    if answer.route:
        parts["Route"] = route_html(answer.route)
    changed = "differs" if answer.base != answer.edited else "is the same"
    body = "".join(f"<div><h5>{title}</h5>{part}</div>" for title, part in parts.items())
    return (
        f"<p>{code(answer.prompt)} <span class='lemoe-faint'>the answer {changed}</span></p>"
        f"<div class='lemoe-halves'>{body}</div>"
    )


def _said(text: str, tokens: Tokens) -> str:
    """A continuation, and the most probable next tokens with a bar each, blanks made visible."""
    rows = [
        (piece.replace(" ", "␣").replace("\n", "⏎") or "(empty)", number(p), "█" * round(BAR * p))
        for piece, p in tokens
    ]
    table = pd.DataFrame(rows, columns=["next", "probability", ""])
    return f"<p>{code(text or '(nothing)')}</p>{table_html(table)}"


def edit_html(opened: OpenedEdit) -> str:
    """One edit opened: answers to its prompt and rephrases, both ways, and its expert by step."""
    edit = opened.edit
    asked = [("edit", edit.prompt), *((f"{r.group} rephrase", r.prompt) for r in edit.rephrases)]
    table = pd.DataFrame(asked, columns=["", "prompt"])
    table = table.assign(unedited=opened.base, now=opened.edited)
    path = ", ".join(f"{step}: {expert_name(e)}" for step, e in sorted(opened.path.items()))
    dated = f"; dated {escape(edit.date)}" if edit.date else ""
    return (
        f"<p>{escape(edit.id)}: to say {code(edit.target)}; {escape(opened.state)}{dated}</p>"
        f"{table_html(table)}"
        f"<p class='lemoe-faint'>expert after each batch: {escape(path or 'no route yet')}</p>"
    )
