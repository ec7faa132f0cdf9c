"""Answers of the model as safe HTML: what was asked, both continuations, tokens, route."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ...edits import Edit
from .ask import Answer, NearEdit, Route, Tokens
from .history import expert_name
from .panel import escape


def answer_html(answer: Answer) -> str:
    """An answer as two columns, unedited and edited, and where its prompt went."""
    halves = "".join(
        f"<div><h5>{title}</h5><p>{code(text or '(nothing)')}</p>{tokens_html(tokens)}</div>"
        for title, text, tokens in (
            ("Unedited", answer.base, answer.base_tokens),
            (f"After {answer.step} batches", answer.edited, answer.edited_tokens),
        )
    )
    changed = "differs" if answer.base != answer.edited else "is the same"
    return (
        f"<p>{code(answer.prompt)} <span class='lemoe-faint'>the answer {changed}</span></p>"
        f"<div class='lemoe-halves'>{halves}"
        f"<div class='lemoe-route'>{route_html(answer.route)}</div></div>"
    )


def tokens_html(tokens: Tokens) -> str:
    """The most probable next tokens with a bar each."""
    rows = "".join(
        f"<tr><td class='token'>{code(visible(piece))}</td>"
        f"<td class='number'>{probability:.3f}</td>"
        f"<td class='lemoe-bar'><span style='width:{100 * probability:.1f}%'></span></td></tr>"
        for piece, probability in tokens
    )
    head = "<tr><th>next</th><th>probability</th><th></th></tr>"
    return f"<table class='lemoe-table'>{head}{rows}</table>"


def route_html(route: Route | None) -> str:
    """The chosen expert, gate weights and the nearest edits."""
    if route is None:
        return "<h5>Route</h5><p>This editor changes the network for every prompt alike.</p>"
    if route.bypassed:
        chosen = "none: the plain network answers"
    else:
        chosen = f"expert {expert_name(route.expert)}"
    gates = ", ".join(
        f"{expert_name(expert)}: {weight:.2f}" for expert, weight in route.gates if weight > 0.005
    )
    parts = [f"<h5>Route: {escape(chosen)}</h5>"]
    if gates:
        parts.append(f"<p class='lemoe-faint'>gate weights {escape(gates)}</p>")
    if route.nearest:
        parts.append(nearest_html(route.nearest, route.threshold))
    return "".join(parts)


def nearest_html(nearest: Sequence[NearEdit], threshold: float | None) -> str:
    """The nearest edits with the similarity of their anchors."""
    rows = "".join(
        f"<tr><td class='number'>{near.similarity:.3f}</td><td class='number'>{near.batch}</td>"
        f"<td>{escape(near.edit.prompt)} <b>{escape(near.edit.target)}</b></td></tr>"
        for near in nearest
    )
    head = "<tr><th>similarity</th><th>batch</th><th>nearest edits</th></tr>"
    note = ""
    if threshold is not None:
        note = f"<p class='lemoe-faint'>below {threshold:.3f} the plain network answers</p>"
    return f"<table class='lemoe-table'>{head}{rows}</table>{note}"


def edit_html(
    edit: Edit, state: str, base: Sequence[str], edited: Sequence[str], path: Mapping[int, int]
) -> str:
    """One edit opened: answers to its prompt and rephrases, both ways, and its expert by step.

    ``base`` and ``edited`` hold the answers to the prompt and to every rephrase, in that order.
    """
    prompts = [edit.prompt, *(rephrase.prompt for rephrase in edit.rephrases)]
    kinds = ["edit", *(f"{rephrase.group} rephrase" for rephrase in edit.rephrases)]
    rows = "".join(
        f"<tr><td>{escape(kind)}</td><td>{escape(prompt)}</td><td>{code(before)}</td>"
        f"<td>{code(after)}</td></tr>"
        for kind, prompt, before, after in zip(kinds, prompts, base, edited, strict=True)
    )
    head = "<tr><th></th><th>prompt</th><th>unedited</th><th>now</th></tr>"
    steps = ", ".join(f"{step}: {expert_name(expert)}" for step, expert in sorted(path.items()))
    about = [f"{escape(edit.id)}: to say {code(edit.target)}; {escape(state)}"]
    about += [f"dated {escape(edit.date)}"] if edit.date else []
    return (
        f"<p>{'; '.join(about)}</p><table class='lemoe-table'>{head}{rows}</table>"
        f"<p class='lemoe-faint'>expert after each batch: {escape(steps or 'no route yet')}</p>"
    )


def code(text: str) -> str:
    """Text in a frame of its own, escaped."""
    return f"<code class='lemoe-text'>{escape(text)}</code>"


def visible(piece: str) -> str:
    """A token with its spaces and line breaks made visible."""
    return piece.replace(" ", "␣").replace("\n", "⏎") or "(empty)"
