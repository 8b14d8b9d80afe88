"""How much memory is in use."""

import os
from typing import Any


def memory_in_use(device: Any) -> int:
    """Bytes: the peak on a CUDA `device`, on others the resident memory of this process."""
    if device.type == "cuda":
        import torch

        return int(torch.cuda.max_memory_allocated(device))
    import psutil

    return int(psutil.Process(os.getpid()).memory_info().rss)
