"""What a panel hears on another thread reaches it on its own."""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor

from lemoe_lab.widgets.common.background import on_this_thread
from lemoe_lab.widgets.common.elements import button


def elsewhere(*calls: Callable[[], object]) -> None:
    """Make the calls on another thread, one after the other."""
    with ThreadPoolExecutor(1) as other:
        for call in calls:
            other.submit(call).result()


def play(scene: Callable[[], Coroutine]) -> None:
    """Run a scene in an event loop, on a thread that has none yet."""
    elsewhere(lambda: asyncio.run(scene()))


def test_what_is_heard_elsewhere_runs_here_in_order_of_arrival():
    async def scene() -> None:
        heard = []
        hear = on_this_thread(lambda word: heard.append((word, threading.get_ident())))
        elsewhere(lambda: hear("first"), lambda: hear("second"))
        assert heard == []  # this thread has not come to it
        await asyncio.sleep(0)
        here = threading.get_ident()
        assert heard == [("first", here), ("second", here)]

    play(scene)


def test_what_is_heard_on_the_own_thread_runs_at_once():
    async def scene() -> None:
        heard = []
        on_this_thread(heard.append)("now")
        assert heard == ["now"]

    play(scene)


def test_without_an_event_loop_everything_runs_at_once():
    def scene() -> None:
        heard = []
        hear = on_this_thread(heard.append)
        elsewhere(lambda: hear("there"))
        hear("here")
        assert heard == ["there", "here"]

    elsewhere(scene)


def test_a_click_that_arrives_elsewhere_is_answered_on_the_thread_of_the_button():
    async def scene() -> None:
        answered = []
        made = button("Greet", "Say hello", lambda: answered.append(threading.get_ident()))
        elsewhere(made.click)
        await asyncio.sleep(0)
        assert answered == [threading.get_ident()]

    play(scene)
