"""How much memory is in use, and how much is free."""

import os
from typing import Any


def memory_in_use(device: Any) -> int:
    """Bytes: the peak on a CUDA `device`, on others the resident memory of this process."""
    if device.type == "cuda":
        import torch

        return int(torch.cuda.max_memory_allocated(device))
    import psutil

    return int(psutil.Process(os.getpid()).memory_info().rss)


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
