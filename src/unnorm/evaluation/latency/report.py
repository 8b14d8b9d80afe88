"""What a comparison of speed found: ratios with intervals, the noise floor beside them, and what they may be called."""

import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Literal

import numpy as np

from unnorm.evaluation.intervals import Estimate
from unnorm.evaluation.latency.workloads import Workload

_TRIM = 0.2
_RESAMPLES = 1000


@dataclass(frozen=True)
class Ratio(Estimate):
    """Time of one model over another's: the estimate and its 95 % interval, from `blocks` paired blocks."""

    low: float
    high: float
    blocks: int

    @property
    def half_width(self) -> float:
        """Of the interval, relative: 0.01 is ± 1 %."""
        return (math.log(self.high) - math.log(self.low)) / 2

    @property
    def bound(self) -> float:
        """How far from 1 the interval reaches, as a logarithm: 0.01 is ± 1 %."""
        return max(abs(math.log(self.low)), abs(math.log(self.high)))


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
    beyond_floor = abs(math.log(ratio.value)) > floor.bound
    if ratio.blocks < ENOUGH or not ratio.leaves_out(1) or not beyond_floor:
        return "no difference shown"
    return "faster" if ratio.value < 1 else "slower"


def ratio_of(first: np.ndarray, second: np.ndarray, *, seed: int = 0) -> Ratio:
    """Times of two models, seconds [blocks, 2] each, as they were taken in the same blocks (at least two).

    Of each block comes one paired log-ratio. Their 20 % trimmed mean is the estimate, its percentile bootstrap over
    blocks the 95 % interval: a burst of other work on the machine spoils a few blocks wholly, which a mean does not
    survive. (In simulations with drift and bursts a mean's interval covers the truth in some 90 %, and is twice as
    wide.)
    """
    from scipy import stats

    logs = np.log(first).mean(1) - np.log(second).mean(1)
    found = stats.bootstrap(
        (logs,),
        lambda x, axis: stats.trim_mean(x, _TRIM, axis=axis),
        n_resamples=_RESAMPLES,
        method="percentile",
        vectorized=True,
        rng=seed,
    ).confidence_interval
    value = float(stats.trim_mean(logs, _TRIM))
    return Ratio(math.exp(value), math.exp(float(found.low)), math.exp(float(found.high)), len(logs))
