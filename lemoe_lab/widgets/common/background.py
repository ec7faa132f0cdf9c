"""Work beside the cells: long work in short slices, and reactions on the thread that runs cells.

button.on_click(on_this_thread(lambda _: self.greet()))
slices = Slices(lambda checkpoint: session.step(on_step=lambda *_: checkpoint()))
while not slices.advance(0.08):
    await asyncio.sleep(0.005)                # the kernel answers clicks and cells here
slices.result
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable

Checkpoint = Callable[[], None]


def on_this_thread(react: Callable[..., object]) -> Callable[..., None]:
    """Let ``react`` run on the thread that calls this now, in its event loop, in order of arrival.

    JupyterLab brings what happens on the page on a thread of its own, while cells run on another;
    both use one model. What is called on this thread runs at once; without an event loop here
    everything does.
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


class Abandoned(Exception):
    """Raised at the checkpoint of work that was cancelled."""


class Slices:
    """Work that is advanced slice by slice, and may use all that runs between two slices uses.

    It has a thread of its own, which runs only while :meth:`advance` waits for it.

    Parameters
    ----------
    work
        Called once with a function ``checkpoint`` that it calls wherever it may be halted.

    Attributes
    ----------
    seconds
        Time spent on it, waiting not counted.
    """

    def __init__(self, work: Callable[[Checkpoint], object]) -> None:
        self.result: object = None
        self.ended = False
        self.seconds = 0.0
        self._work = work
        self._error: BaseException | None = None
        self._cancelled = False
        self._deadline = 0.0
        self._go, self._back = threading.Semaphore(0), threading.Semaphore(0)
        threading.Thread(target=self._run, name="lemoe-slices", daemon=True).start()

    def advance(self, seconds: float) -> bool:
        """Let the work run for about ``seconds``; True once it has ended.

        Raises
        ------
        Exception
            Whatever the work raised; :class:`Abandoned` after :meth:`cancel`.
        """
        if not self.ended:
            started = time.perf_counter()
            self._deadline = started + seconds
            self._go.release()
            try:
                self._back.acquire()
            except BaseException:  # an interrupt from the keyboard must not leave the work running
                self._end_cancelled()
                raise
            self.seconds += time.perf_counter() - started
        if self.ended and self._error is not None:
            raise self._error
        return self.ended

    def cancel(self) -> None:
        """End the work at the checkpoint where it stands; nothing happens if it has ended."""
        if not self.ended:
            self._end_cancelled()
            if not isinstance(self._error, Abandoned):
                raise self._error or RuntimeError("the work ended in spite of being cancelled")

    def _end_cancelled(self) -> None:
        self._cancelled = True
        while not self.ended:  # it may stand at a checkpoint or be on its way to one
            self._go.release()
            self._back.acquire()

    def _run(self) -> None:
        try:
            self._await_go()
            self.result = self._work(self._checkpoint)
        except BaseException as error:
            self._error = error
        finally:
            self.ended = True
            self._back.release()

    def _checkpoint(self) -> None:
        if self._cancelled or time.perf_counter() >= self._deadline:
            self._back.release()
            self._await_go()

    def _await_go(self) -> None:
        self._go.acquire()
        if self._cancelled:
            raise Abandoned("the running batch was abandoned")
