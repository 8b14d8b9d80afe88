"""How much memory is in use, how much was at most, and how much is free."""

import os
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
