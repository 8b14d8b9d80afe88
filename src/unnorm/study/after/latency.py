"""Two arms' speed: the models that their cells saved, adapters merged, alternating in one process."""

from pathlib import Path

import torch

from unnorm.evaluation.latency import Workload, compare_latency
from unnorm.foundation import atomic
from unnorm.foundation.hashing import hash_json
from unnorm.study.after.model import load_model
from unnorm.study.after.pairs import Pair
from unnorm.study.spec import LatencyStage


def latency_file(pair: Pair, wanted: LatencyStage) -> str:
    """The file in the pair's folder that holds what was measured so."""
    return f"latency-{hash_json(wanted.model_dump())}.json"


def is_timed(pair: Pair, wanted: LatencyStage) -> bool:
    return (pair.folder / latency_file(pair, wanted)).is_file()


def time_pair(pair: Pair, wanted: LatencyStage, *, quiet: bool = False) -> None:
    """Write the report, and every sample as Parquet beside it."""
    device = torch.accelerator.current_accelerator() or torch.device("cpu")
    models = {
        cell.settings.arm.id: load_model(cell, merged=True).to(device) for cell in (pair.against, pair.arm)
    }  # the reference first
    shape = {"batch_size": wanted.batch_size, "length": wanted.length, "new_tokens": wanted.new_tokens}
    workloads = [Workload(kind="prefill", **shape), Workload(kind="decode", **shape)]
    report = compare_latency(
        models, workloads, budget_seconds=wanted.budget_seconds, seed=pair.arm.settings.seed, quiet=quiet
    )
    path = Path(pair.folder / latency_file(pair, wanted))
    report.write_samples(path.with_suffix(".parquet"))
    atomic.write_json(path, report.to_dict())
