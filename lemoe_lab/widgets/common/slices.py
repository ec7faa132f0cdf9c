"""A long computation in short slices, so that something else can run between them.

    slices = Slices(lambda checkpoint: session.step(on_step=lambda *_: checkpoint()))
    while not slices.advance(0.08):
        await asyncio.sleep(0.005)               # the kernel answers clicks and cells here
    slices.result

The work runs in a thread of its own, but only while ``advance`` waits for it: whatever runs between
two slices finds the work standing at one of its checkpoints and may use what it uses.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

Checkpoint = Callable[[], None]


class Abandoned(Exception):
    """Raised at the checkpoint of work that was cancelled."""


class Slices:
    """Work that is advanced slice by slice.

    Parameters
    ----------
    work
        Called once with a function ``checkpoint`` that it calls wherever it may be halted.
    """

    def __init__(self, work: Callable[[Checkpoint], object]) -> None:
        self.result: object = None
        self.ended = False
        self._work = work
        self._error: BaseException | None = None
        self._cancelled = False
        self._deadline = 0.0
        self._go, self._back = threading.Semaphore(0), threading.Semaphore(0)
        self._thread = threading.Thread(target=self._run, name="lemoe-slices", daemon=True)
        self._thread.start()

    def advance(self, seconds: float) -> bool:
        """Let the work run for about ``seconds``; True once it has ended.

        Raises
        ------
        Exception
            Whatever the work raised; :class:`Abandoned` after :meth:`cancel`.
        """
        if not self.ended:
            self._deadline = time.perf_counter() + seconds
            self._go.release()
            try:
                self._back.acquire()
            except BaseException:  # an interrupt from the keyboard must not leave the work running
                self._end_cancelled()
                raise
        if self.ended:
            self._thread.join()
            if self._error is not None:
                raise self._error
        return self.ended

    def cancel(self) -> None:
        """End the work at the checkpoint where it stands; nothing happens if it has ended."""
        if self.ended:
            return
        self._end_cancelled()
        if not isinstance(self._error, Abandoned):
            raise self._error or RuntimeError("the work ended in spite of being cancelled")

    def _end_cancelled(self) -> None:
        self._cancelled = True
        while not self.ended:  # it may stand at a checkpoint or be on its way to one
            self._go.release()
            self._back.acquire()
        self._thread.join()

    def _run(self) -> None:
        self._go.acquire()
        try:
            self._halt_if_cancelled()
            self.result = self._work(self._checkpoint)
        except BaseException as error:
            self._error = error
        finally:
            self.ended = True
            self._back.release()

    def _checkpoint(self) -> None:
        self._halt_if_cancelled()
        if time.perf_counter() < self._deadline:
            return
        self._back.release()
        self._go.acquire()
        self._halt_if_cancelled()

    def _halt_if_cancelled(self) -> None:
        if self._cancelled:
            raise Abandoned("the running batch was abandoned")
