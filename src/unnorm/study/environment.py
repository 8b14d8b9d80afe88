"""On what a cell was run: the kind of hardware, the libraries, this code. Two arms are compared only on the same."""

from importlib.metadata import version
from typing import Any

import torch

from unnorm.evaluation.latency.environment import environment
from unnorm.foundation import ranks
from unnorm.foundation.code import code_digest


def run_environment(load: float) -> dict[str, Any]:
    """device (its type), hardware (its name), versions of libraries, and unnorm's own version and digest; on a
    processor the threads computed on; devices: how many, where there were several. load: what `OthersLoad` read, kept
    as it is given."""
    device = torch.accelerator.current_accelerator() or torch.device("cpu")
    about = environment(device)
    return {
        "device": device.type,
        "hardware": about["gpu"]["name"] if "gpu" in about else about["processor"],
        **({"threads": torch.get_num_threads()} if device.type == "cpu" else {}),
        **({"devices": ranks.count()} if ranks.count() > 1 else {}),
        "load": load,
        "versions": {**about["versions"], "unnorm": version("unnorm")},
        "code": code_digest(),
    }
