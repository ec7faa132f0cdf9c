"""What a panel hears on another thread reaches it on its own; long work goes on in slices."""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor

import pytest

from lemoe_lab.widgets.common.background import Abandoned, Slices, on_this_thread
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


# Slices


def test_sliced_work_runs_only_while_it_is_advanced():
    seen = []

    def work(checkpoint) -> str:
        for number in range(3):
            seen.append(number)
            checkpoint()
        return "done"

    slices = Slices(work)
    assert seen == []
    assert not slices.advance(0) and seen == [0]
    while not slices.advance(0):
        pass
    assert slices.result == "done" and seen == [0, 1, 2]


def test_cancelled_work_ends_at_its_checkpoint():
    ended = []

    def work(checkpoint) -> None:
        try:
            checkpoint()
        except Abandoned:
            ended.append(True)
            raise

    slices = Slices(work)
    slices.advance(0)
    slices.cancel()

    assert ended == [True] and slices.ended


@pytest.mark.parametrize("at_checkpoint", [True, False])
def test_an_interrupt_from_the_keyboard_ends_the_work(monkeypatch, at_checkpoint):
    def work(checkpoint) -> None:
        while True:
            checkpoint()

    slices = Slices(work)
    wait = slices._back.acquire

    def interrupted() -> None:
        monkeypatch.setattr(slices._back, "acquire", wait)
        if at_checkpoint:
            wait()
        raise KeyboardInterrupt

    monkeypatch.setattr(slices._back, "acquire", interrupted)
    with pytest.raises(KeyboardInterrupt):
        slices.advance(0)

    assert slices.ended


def test_errors_of_sliced_work_arrive():
    def work(checkpoint) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        Slices(work).advance(1)
