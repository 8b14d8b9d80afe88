"""What a comparison of speed found: ratios with intervals, the noise floor beside them, and what they may be called."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Literal

from unnorm.evaluation.latency.ratios import Ratio
from unnorm.evaluation.latency.workloads import Workload

ENOUGH = 12
"""Blocks that a verdict needs: an interval over fewer is too narrow."""
SpeedVerdict = Literal["faster", "slower", "no difference shown"]


@dataclass(frozen=True)
class Comparison:
    """One model against the reference, on one workload.

    share_of_norms: how much of the time that the reference spends on its norms the model saves; None where the bound
    (no norms at all) is not shown to be faster.
    """

    workload: Workload
    model: str
    reference: str
    ratio: Ratio
    floor: Ratio
    verdict: SpeedVerdict
    share_of_norms: float | None

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "workload": self.workload.model_dump(), "name": self.workload.name}


@dataclass(frozen=True)
class LatencyReport:
    """comparisons: one a workload and model. samples: every timed run, as plain records. peak_memory: bytes that a run
    takes beside the weights, energy: joules of a run; both by workload and model, where the device tells."""

    comparisons: list[Comparison]
    environment: dict[str, Any]
    seconds: float
    samples: list[dict[str, Any]] = field(repr=False)
    peak_memory: dict[str, dict[str, int]] = field(default_factory=dict)
    energy: dict[str, dict[str, float]] = field(default_factory=dict)

    def absolute(self) -> list[dict[str, Any]]:
        """workload, model, seconds (the median of its runs) and tokens_per_second: of each model on each workload that
        there are runs of, the reference first."""
        workloads = {comparison.workload.name: comparison.workload for comparison in self.comparisons}
        order = [(c.workload.name, model) for c in self.comparisons for model in (c.reference, c.model)]
        taken: dict[tuple[str, str], list[float]] = {key: [] for key in order}
        for sample in self.samples:
            taken[sample["workload"], sample["model"]].append(sample["seconds"])
        found = [(*key, median(seconds)) for key, seconds in taken.items() if seconds]
        return [
            {"workload": w, "model": m, "seconds": middle, "tokens_per_second": workloads[w].tokens / middle}
            for w, m, middle in found
        ]

    def to_dict(self) -> dict[str, Any]:
        return {
            "absolute": self.absolute(),
            "comparisons": [comparison.to_dict() for comparison in self.comparisons],
            "environment": self.environment,
            "seconds": self.seconds,
            "peak_memory": self.peak_memory,
            "energy": self.energy,
        }

    def write_samples(self, path: Path) -> None:
        """Every timed run as Parquet: workload, block, place in the block, model, seconds; the environment beside."""
        import orjson
        import pyarrow as pa

        from unnorm.foundation import atomic
        from unnorm.foundation.parquet import parquet_bytes

        table = pa.Table.from_pylist(self.samples)
        table = table.replace_schema_metadata({"environment": orjson.dumps(self.environment)})
        atomic.write_bytes(path, parquet_bytes(table))


def verdict_of(ratio: Ratio, floor: Ratio) -> SpeedVerdict:
    """A ratio is a difference only if its interval leaves out 1, and it exceeds what a model shows against itself, and
    there were `ENOUGH` blocks."""
    if ratio.blocks < ENOUGH:
        return "no difference shown"
    if not ratio.leaves_out(1) or max(ratio.value, 1 / ratio.value) - 1 <= floor.bound:
        return "no difference shown"
    return "faster" if ratio.value < 1 else "slower"
