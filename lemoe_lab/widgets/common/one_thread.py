"""One thread for all of a panel: the one that runs cells.

    button.on_click(on_this_thread(lambda _: self.greet()))

JupyterLab brings what happens on the page on a thread of its own, while cells run on another. Both
use one model, and neither waits for the other; so a panel takes what it hears to the thread that it
was made on, where a reaction runs between two cells, or while one of them awaits something.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable


def on_this_thread(react: Callable[..., object]) -> Callable[..., None]:
    """Let ``react`` run on the thread that calls this now, in its event loop, in order of arrival.

    What is called on this thread runs at once; without an event loop here everything does.
    """
    thread = threading.get_ident()
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        loop = None

    def hear(*arguments: object) -> None:
        if loop is None or threading.get_ident() == thread:
            react(*arguments)
        else:
            loop.call_soon_threadsafe(react, *arguments)

    return hear
