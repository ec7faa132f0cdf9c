"""Work of a panel's model in short slices, so that the kernel answers clicks and cells in between.

worker = Worker(model.tick, model.wait, lambda: model.phase == "training", transport.follow)
worker.act(model.play)                        # shows an error of the command; starts its work
await worker.finished()
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from .panel import escape, markup

SLICE, PAUSE = 0.1, 0.003  # seconds of work, and of rest for the kernel's other duties


class Worker:
    """Runs commands of a model and the work that they leave.

    Parameters
    ----------
    tick
        Works for about so many seconds; whether more is due.
    wait
        Does all the work that is due.
    busy
        Whether any is due.
    after
        Called after every slice, and after an error.

    Attributes
    ----------
    error
        The widget that shows what went wrong last.
    """

    def __init__(
        self,
        tick: Callable[[float], bool],
        wait: Callable[[], None],
        busy: Callable[[], bool],
        after: Callable[[], None],
    ) -> None:
        self.error = markup("", "lemoe-error")
        self._tick, self._wait, self._busy, self._after = tick, wait, busy, after
        self._task: asyncio.Task | None = None

    def act(self, command: Callable[[], object]) -> None:
        """Run a command, show its error, start the work it asks for."""
        self.error.value = ""
        try:
            command()
        except Exception as error:
            self._show_error(error)
        self._start()

    async def finished(self) -> None:
        """Wait until nothing is due."""
        if self._task:
            await self._task

    def _start(self) -> None:
        if not self._busy() or (self._task and not self._task.done()):
            return
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:  # a plain script: nobody else is waiting
            self._guarded(self._wait)
        else:
            self._task = loop.create_task(self._work())

    async def _work(self) -> None:
        while self._guarded(lambda: self._tick(SLICE)):
            await asyncio.sleep(PAUSE)

    def _guarded(self, work: Callable[[], object]) -> object:
        try:
            return work()
        except Exception as error:
            self._show_error(error)
            return False
        finally:
            self._after()

    def _show_error(self, error: Exception) -> None:
        self.error.value = escape(str(error) or type(error).__name__)
