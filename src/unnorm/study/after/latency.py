"""Two arms' speed: the models that their cells saved, adapters merged, alternating in one process."""

from pathlib import Path
from typing import Any

import torch

from unnorm.evaluation.latency import Workload, compare_latency
from unnorm.foundation import atomic
from unnorm.foundation.hashing import hash_json
from unnorm.study.after.stage import Stage, load_model
from unnorm.study.plan import CellPair
from unnorm.study.sections import LatencyStage


def latency_stage(wanted: LatencyStage) -> str:
    """The name of the stage, and of its files in a pair's folder: it is about these workloads."""
    return f"latency-{hash_json(wanted.model_dump())}"


def time_pair(pair: CellPair, wanted: LatencyStage, out: Path, *, quiet: bool = False) -> str:
    """Write the report into the folder `out`, and every sample as Parquet beside it. A line for people."""
    device = torch.accelerator.current_accelerator() or torch.device("cpu")
    models = {
        cell.settings.arm.id: load_model(cell, merged=True).to(device) for cell in (pair.against, pair.arm)
    }  # the reference first
    shape = {"batch_size": wanted.batch_size, "length": wanted.length, "new_tokens": wanted.new_tokens}
    workloads = [Workload(kind="prefill", **shape), Workload(kind="decode", **shape)]
    report = compare_latency(
        models, workloads, budget_seconds=wanted.budget_seconds, seed=pair.arm.settings.seed, quiet=quiet
    )
    name = latency_stage(wanted)
    report.write_samples(out / f"{name}.parquet")
    atomic.write_json(out / f"{name}.json", report.to_dict())
    of_arm = [c for c in report.comparisons if c.model == pair.arm.settings.arm.id]
    return "; ".join(f"{c.workload.kind} {c.ratio.value - 1:+.1%}, {c.verdict}" for c in of_arm)


def _read(folder: Path, at: str, logs: bool) -> dict[str, Any]:
    report = folder / f"{at}.json"
    return {"latency": atomic.read_json(report) if report.is_file() else None}


STAGE = Stage(
    "latency",
    of_pairs=True,
    folder=lambda pair, after: latency_stage(after.latency),
    run=lambda pair, after, out, quiet: time_pair(pair, after.latency, out, quiet=quiet),
    alone=True,
    read=_read,
)
