"""Energy of a run, where NVIDIA's counter tells (pynvml). Runs of one model follow one another for it.

The counter moves some ten times a second, so runs that alternate cannot be told apart by it as their times can; and
there is no interval: these numbers are for orientation.
"""

import time
from collections.abc import Callable, Mapping
from typing import Any

import torch


def energy_of(runs: Mapping[str, Callable[[int], Any]], device: torch.device, seconds: float) -> dict[str, float]:
    """Joules that one run of each takes on the GPU, from `seconds` of runs; empty where nothing counts them."""
    counter = _counter(device)
    found: dict[str, float] = {}
    if counter is not None:
        for name, run in runs.items():
            before, ends, done = counter(), time.monotonic() + seconds, 0
            while not done or time.monotonic() < ends:
                run(done)
                done += 1
            found[name] = (counter() - before) / done
    return found


def _counter(device: torch.device) -> Callable[[], float] | None:
    """Joules since the driver was loaded."""
    if device.type != "cuda":
        return None
    try:
        import pynvml

        pynvml.nvmlInit()
        uuid = str(torch.cuda.get_device_properties(device).uuid)
        handle = pynvml.nvmlDeviceGetHandleByUUID(uuid if uuid.startswith("GPU-") else f"GPU-{uuid}")
        pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)  # older cards do not count
    except Exception:  # whatever is missing, there is no counter
        return None
    return lambda: pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1000
