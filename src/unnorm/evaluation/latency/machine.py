"""The machine that times are taken on: what it is, for without it an absolute time means nothing; where weights lie in
its memory; and what energy a run takes."""

import os
import platform
import time
from collections.abc import Callable, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch

from unnorm.artefacts.manifest import library_versions
from unnorm.foundation.processes import cores

_LINE, _LINES = 64, 1024
"""Bytes of a cache line, and lines within which a tensor is moved: what a second-level cache is indexed by."""

_THREADING = ("OMP_", "GOMP_", "KMP_", "MKL_")
"""Of variables that tell threads how to run and to wait. A passive wait makes small models three times as slow."""


def environment(device: torch.device) -> dict[str, Any]:
    """Processor, threads, load, clocks and versions, as far as this machine tells."""
    found: dict[str, Any] = {
        "device": str(device),
        "processor": _processor(),
        "cores": cores(),
        "threads": torch.get_num_threads(),
        "threading": {name: value for name, value in os.environ.items() if name.startswith(_THREADING)},
        "load": [round(load, 2) for load in os.getloadavg()] if hasattr(os, "getloadavg") else None,
        "clock_mhz": _clock(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": library_versions(),
    }
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        found["gpu"] = {"name": properties.name, "memory": properties.total_memory, "cuda": torch.version.cuda}
        found["gpu"]["clock_mhz"] = _gpu_clock(device)
    return found


def _gpu_clock(device: torch.device) -> int | None:
    try:
        return torch.cuda.clock_rate(device)
    except Exception:  # pynvml is not there, or the driver does not tell
        return None


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.is_file() else []
    named = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")
    return named or platform.processor() or platform.machine()


def _clock() -> float | None:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.is_file() else []
    clocks = [float(line.split(":")[1]) for line in lines if line.startswith("cpu MHz")]
    return round(sum(clocks) / len(clocks), 1) if clocks else None


@torch.no_grad()
def lay_elsewhere(model: Any, generator: np.random.Generator) -> None:
    """Copy every parameter and buffer of `model` that is in the CPU's memory to a random other place in it.

    Where weights lie changes how fast a model is, by a percent or two, for nothing that it computes. Two copies of one
    model differ so, steadily, as long as both stay where they are; a longer measurement only grows surer of it. Laid
    elsewhere before each timed run, where they lie becomes noise like any other, which the intervals cover (Mytkowicz
    et al., ASPLOS 2009; Curtsinger and Berger, ASPLOS 2013).

    Values, dtypes and the parameter objects stay. On other devices nothing is done: captured graphs hold addresses.
    """
    for tensor in chain(model.parameters(), model.buffers()):
        if tensor.device.type == "cpu" and tensor.layout == torch.strided and tensor.is_contiguous() and tensor.numel():
            size = tensor.element_size()
            start = int(generator.integers(_LINES)) * _LINE // size
            room = torch.empty(tensor.numel() + _LINES * _LINE // size, dtype=tensor.dtype)
            place = room[start : start + tensor.numel()].view(tensor.shape)
            tensor.data = place.copy_(tensor)


def energy_of(runs: Mapping[str, Callable[[int], Any]], device: torch.device, seconds: float) -> dict[str, float]:
    """Joules that one run of each takes on the GPU, from `seconds` of runs; empty where nothing counts them.

    NVIDIA's counter tells (pynvml). It moves some ten times a second, so runs that alternate cannot be told apart by it
    as their times can, and runs of one model follow one another; and there is no interval: this is for orientation.
    """
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
