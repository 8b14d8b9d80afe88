"""What a result was measured on: the line that stands in every table."""

import datetime
import os
import platform
from importlib.metadata import version
from pathlib import Path

import torch

SHARED = Path(os.environ.get("UNNORM_SHARED", Path(__file__).parent.parent / ".." / "shared")).resolve()


def machine_line() -> str:
    """Date, processor, cores and versions."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        names = [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        model = names[0] if names else model
    if torch.cuda.is_available():
        model = f"{torch.cuda.get_device_name()}, {model}"
    libraries = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "peft"))
    return f"{datetime.date.today().isoformat()}, {model}, {os.cpu_count()} cores, {libraries}"
