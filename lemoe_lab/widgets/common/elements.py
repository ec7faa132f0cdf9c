"""What panels are made of: controls with names, safe text, tables.

name = control(ipywidgets.Text, "Name", "200px", lambda value: greet(value))
row(name, button("Greet", "Say hello", greet))
"""

from __future__ import annotations

import html
from collections.abc import Callable

import ipywidgets
import pandas as pd

from .background import on_this_thread

Act = Callable[[Callable[[], object]], None]  # runs a command of the model

# Text is data


def escape(text: object) -> str:
    """Text for an HTML widget: shown as it is, never run."""
    return html.escape(str(text))


def code(text: str) -> str:
    """Text in a frame of its own, escaped."""
    return f"<code class='lemoe-text'>{escape(text)}</code>"


def plain(text: object) -> str:
    """Text for matplotlib: dollar signs are dollar signs, not formulas."""
    return str(text).replace("$", r"\$")


def shortened(text: str, width: int) -> str:
    """The text, cut with an ellipsis to ``width`` characters."""
    return text if len(text) <= width else text[: width - 1].rstrip() + "…"


def markup(html_text: str, css_class: str = "") -> ipywidgets.HTML:
    """An HTML widget; every piece of data in ``html_text`` must have gone through ``escape``."""
    widget = ipywidgets.HTML(html_text)
    if css_class:
        widget.add_class(css_class)
    return widget


# Tables, their cells written by ``number`` or taken as they are


def number(value: float | None, form: str = ".3f") -> str:
    """A number as tables show it; a dash for what was not measured."""
    return "–" if value is None or pd.isna(value) else f"{value:{form}}".replace("-", "−")


def table_html(table: pd.DataFrame) -> str:
    """A table as safe HTML."""
    with pd.option_context("display.max_colwidth", None):
        return table.to_html(index=False, border=0, classes="lemoe-table", justify="left")


# Controls with names


def button(
    label: str, tooltip: str, command: Callable, style: str = "", act: Act = lambda do: do()
) -> ipywidgets.Button:
    """A labelled button; ``style`` is "", "primary", "warning" or "danger"; ``act`` runs it."""
    widget = ipywidgets.Button(description=label, tooltip=tooltip, button_style=style)
    widget.layout.width = "auto"
    widget.on_click(on_this_thread(lambda _: act(command)))
    return widget


def control(
    kind: type[ipywidgets.Widget],
    label: str,
    width: str,
    on_value: Callable[[object], object] | None = None,
    **keywords: object,
) -> ipywidgets.Widget:
    """An input with its label; ``on_value`` is called with what a person enters."""
    widget = kind(description=label, **keywords)
    widget.style.description_width, widget.layout.width = "initial", width
    widget.put_by_us = False
    if widget.has_trait("continuous_update"):
        widget.continuous_update = False

    def react(change: dict) -> None:
        if not widget.put_by_us:
            on_value(change["new"])

    if on_value:
        widget.observe(on_this_thread(react), "value")
    return widget


def put(widget: ipywidgets.Widget, **state: object) -> None:
    """Show this in a :func:`control`, which does not react to it."""
    widget.put_by_us = True
    try:
        for name, value in state.items():
            setattr(widget, name, value)
    finally:
        widget.put_by_us = False


def row(*children: ipywidgets.Widget) -> ipywidgets.HBox:
    """Widgets side by side that wrap to the next line where the page is narrow."""
    box = ipywidgets.HBox(list(children))
    box.add_class("lemoe-row")
    return box


def card(title: str, *children: ipywidgets.Widget) -> ipywidgets.VBox:
    """A titled group of widgets inside a panel."""
    box = ipywidgets.VBox([markup(f"<h4>{escape(title)}</h4>", "lemoe-heading"), *children])
    box.add_class("lemoe-card")
    return box
