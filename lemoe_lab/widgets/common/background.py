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
from dataclasses import dataclass

from ...session import EditSession

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


class Model:
    """What a panel shows and commands, without a view, and the work that commands leave.

    ``on_event`` holds what is called with the name of each event.
    """

    busy = False  # whether work is due

    def __init__(self) -> None:
        self.on_event: list[Callable[[str], None]] = []

    def tell(self, event: str) -> None:
        """Let every listener hear of an event."""
        for listener in self.on_event:
            listener(event)

    def tick(self, seconds: float) -> bool:
        """Do what is due for about ``seconds``; whether more is due."""
        return False

    def wait(self) -> None:
        """Do everything that is due."""
        while self.tick(1.0):
            pass


@dataclass
class Progress:
    """How far a batch is that is being learned."""

    batch: int
    batches: int | None = None  # of how many, if that is to be said
    step: int = 0
    steps: int = 0
    loss: float = float("nan")
    reliability: float | None = None  # share of its targets that are said already

    @property
    def share(self) -> float:
        """Optimiser steps done, in [0, 1]."""
        return self.step / self.steps if self.steps else 0.0

    def __str__(self) -> str:
        parts = [f"batch {self.batch}" + (f" of {self.batches}" if self.batches else "")]
        if self.steps:
            parts.append(f"optimiser step {self.step} of at most {self.steps}")
            parts.append(f"loss {self.loss:.3f}")
        if self.reliability is not None:
            parts.append(f"says {self.reliability:.0%} of its targets")
        return ", ".join(parts)

    def learn(self, session: EditSession, checkpoint: Checkpoint) -> None:
        """Let a session learn the batch, and follow it."""

        def on_step(step: int, steps: int, loss: float) -> None:
            self.step, self.steps, self.loss = step, steps, loss
            checkpoint()

        session.step(on_step, checkpoint=checkpoint)


class Abandoned(Exception):
    """Raised at the checkpoint of work that was cancelled."""


class Slices:
    """Work that is advanced slice by slice, and may use all that runs between two slices uses.

    It has a thread of its own, which runs only while :meth:`advance` waits for it.
    ``work`` is called once, with a function ``checkpoint`` to call wherever it may be halted.
    """

    def __init__(self, work: Callable[[Checkpoint], object]) -> None:
        self.result: object = None
        self.ended = False
        self.seconds = 0.0  # spent on it, waiting not counted
        self._work = work
        self._error: BaseException | None = None
        self._cancelled = False
        self._deadline = 0.0
        self._go, self._back = threading.Semaphore(0), threading.Semaphore(0)
        threading.Thread(target=self._run, name="lemoe-slices", daemon=True).start()

    def advance(self, seconds: float) -> bool:
        """Let the work run for about ``seconds``; True once it has ended, or what it raised."""
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
