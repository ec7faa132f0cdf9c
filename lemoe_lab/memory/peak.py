"""How much memory a piece of work takes.

with PeakMemory(host.device) as memory:
    editor.edit(batch)
memory.bytes                                  # beyond what was held before; NaN if unknown
"""

from __future__ import annotations

import ctypes
import math
from pathlib import Path
from types import TracebackType
from typing import Self

import torch

STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
RESET_PEAK = "5"  # what Linux wants to read there


class PeakMemory:
    """The highest memory in use inside the block, beyond what was in use when it began.

    On a GPU the tensors of this process count, elsewhere its resident memory, which only Linux
    tells.
    """

    bytes = math.nan

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)

    def __enter__(self) -> Self:
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            self._before = float(torch.cuda.memory_allocated(self.device))
        else:
            self._before = _resident("VmRSS") if _forget_peak() else math.nan
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        if self.device.type == "cuda":
            peak = float(torch.cuda.max_memory_allocated(self.device))
        else:
            peak = _resident("VmHWM")
        self.bytes = math.nan if math.isnan(peak - self._before) else max(0.0, peak - self._before)


def _forget_peak() -> bool:
    """Let the highest resident memory begin anew; whether that was possible."""
    try:
        ctypes.CDLL(None).malloc_trim(0)  # what was freed must not hide what is taken next
        RESET.write_text(RESET_PEAK)
    except (OSError, AttributeError, TypeError):  # Windows takes no None for its C library
        return False
    return True


def _resident(name: str) -> float:
    """A line of the process's status in bytes; NaN where there is none."""
    try:
        lines = STATUS.read_text().splitlines()
    except OSError:
        return math.nan
    found = [line.split()[1] for line in lines if line.startswith(f"{name}:")]
    return float(found[0]) * 1024 if found else math.nan
