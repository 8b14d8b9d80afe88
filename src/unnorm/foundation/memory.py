"""How much memory is in use, how much was at most, and how much is free; and how much of the processor others took."""

import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

_RESET_PEAK = "5"
"""What Linux takes at clear_refs to forget a process's peak (proc(5))."""


def memory_in_use(device: Any) -> int:
    """Bytes: the peak on a CUDA `device`, on others the resident memory of this process."""
    if device.type == "cuda":
        import torch

        return int(torch.cuda.max_memory_allocated(device))
    import psutil

    return int(psutil.Process(os.getpid()).memory_info().rss)


def forget_peak(device: Any) -> None:
    """From now on `peak_memory` counts afresh. Where a system cannot, it goes on counting from the process's start."""
    if device.type == "cuda":
        import torch

        torch.cuda.reset_peak_memory_stats(device)
        return
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text(_RESET_PEAK)


def peak_memory(device: Any) -> int:
    """Bytes: the most that was allocated on a CUDA `device`, or resident of this process on others, since
    `forget_peak`. Where a system does not tell, what is resident now."""
    if device.type == "cuda":
        return memory_in_use(device)
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return memory_in_use(device)


def memory_free(device: Any) -> int | None:
    """Bytes that can still be taken on `device`; None where that cannot be asked."""
    if device.type == "cuda":
        import torch

        free = torch.cuda.mem_get_info(device)[0]
        return int(free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device))
    if device.type == "cpu":
        import psutil

        return int(psutil.virtual_memory().available)
    return None


class OthersLoad:
    """From its creation on: the share of all cores' time that went to other processes (and, in a virtual machine, to
    others on its host)."""

    def __init__(self) -> None:
        self._started, self._busy, self._own = time.perf_counter(), _busy(), time.process_time()

    def read(self) -> float:
        """Between 0, the machine was ours, and 1."""
        import psutil

        cores = psutil.cpu_count() or 1
        passed = max(1e-9, time.perf_counter() - self._started)
        others = (_busy() - self._busy) - (time.process_time() - self._own)
        return round(min(1.0, max(0.0, others / (passed * cores))), 3)


def _busy() -> float:
    """Seconds that all cores together have worked since the machine began."""
    import psutil

    times = psutil.cpu_times()
    return sum(getattr(times, name, 0.0) for name in ("user", "nice", "system", "irq", "softirq", "steal"))
