"""`unnorm doctor`: versions, devices, caches, disk: what will work here."""

import os
import platform
import shutil
import sys
from pathlib import Path
from typing import Any

from unnorm.cli.output import JsonOption, emit_json, emit_table

EXAMPLE = "Example: [bold]unnorm doctor --json[/bold]"

_NEEDED = ("unnorm", "torch", "transformers", "peft", "accelerate", "datasets", "safetensors", "tokenizers")


def doctor(json: JsonOption = False) -> None:
    """Say what will work on this machine."""
    facts = _facts()
    if json:
        emit_json(facts)
        return
    rows = [[group, name, str(value)] for group, entries in facts.items() for name, value in entries.items()]
    emit_table("this machine", ["", "what", "found"], rows, align_right_from=3)


def _facts() -> dict[str, dict[str, Any]]:
    import torch

    from unnorm.foundation.cache import cache_folder
    from unnorm.foundation.compilers import missing_compiler
    from unnorm.foundation.precision import choose
    from unnorm.tuning.threads import threads_for_small

    chosen = choose("auto")
    cache = cache_folder()
    hub = Path(os.environ.get("HF_HOME", Path.home() / ".cache" / "huggingface"))
    missing = missing_compiler("cuda" if torch.cuda.is_available() else "cpu")
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in _NEEDED}},
        "devices": {
            "threads of the processor": torch.get_num_threads(),
            "threads for a small model": threads_for_small().describe(),
            "GPUs": ", ".join(gpus) or "none: everything runs on the processor",
            "precision auto": f"{chosen.name}. {chosen.why}",
            "fp16": "yes" if gpus else "no: needs a GPU",
            "compile (--compile, optimize_)": f"no: needs {missing}" if missing else "yes",
            "DyT without a GPU": "by PyTorch's sigmoid, in three passes; compiled it is no faster where it matters",
        },
        "folders": {
            "cache of unnorm (UNNORM_CACHE)": f"{cache}, {_writable(cache)}, {_free(cache)}",
            "cache of the hub (HF_HOME)": f"{hub}, {_writable(hub)}, {_free(hub)}",
            "hub": "offline (HF_HUB_OFFLINE is set)"
            if os.environ.get("HF_HUB_OFFLINE")
            else "used when a name needs it",
        },
        "command": {"unnorm": shutil.which("unnorm") or f"{sys.executable} -m unnorm"},
    }


def _version(name: str) -> str:
    from importlib.metadata import PackageNotFoundError, version  # late: it brings all of `email` along

    try:
        return version(name)
    except PackageNotFoundError:
        return "missing: install unnorm again"


def _nearest(path: Path) -> Path:
    while not path.exists():
        path = path.parent
    return path


def _writable(path: Path) -> str:
    return "writable" if os.access(_nearest(path), os.W_OK) else "NOT writable"


def _free(path: Path) -> str:
    return f"{shutil.disk_usage(_nearest(path)).free / 2**30:.1f} GiB free"
