"""On what times were taken: without it an absolute time means nothing."""

import os
import platform
from pathlib import Path
from typing import Any

import torch

from unnorm.artefacts.manifest import library_versions
from unnorm.foundation.processes import cores

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
