"""From a step measured on one device to a cell or start that is spread over several of one machine.

Each of them has an equal part of a step's rows; the time in which they talk to each other is left out.
"""

from typing import Any

import torch

from unnorm.foundation.processes import cores
from unnorm.tuning.memory_need import TRAINED_BYTES
from unnorm.tuning.settings import Sharding


def crowded(devices: int, device: torch.device) -> float:
    """By how much a step takes longer with `devices` of them at work: GPUs are each on their own, and processes on the
    processor share its cores."""
    return max(1.0, devices * torch.get_num_threads() / cores()) if device.type == "cpu" else 1.0


def memory_over(measured: int, model: Any, devices: int, sharding: Sharding, device: torch.device) -> int:
    """Bytes of each GPU, or on the processor of all processes together. measured: of one process with its part of the
    rows and the whole of what `model`, which learns, holds: with fsdp each device has a part of that."""
    held = sum(p.numel() * (TRAINED_BYTES if p.requires_grad else p.element_size()) for p in model.parameters())
    spared = held - held // devices if sharding == "fsdp" else 0
    return max(0, measured - spared) * (devices if device.type == "cpu" else 1)
