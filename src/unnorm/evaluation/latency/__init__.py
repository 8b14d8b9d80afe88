"""How fast models are against each other: alternated in one process, with intervals and a noise floor.

    workloads -> harness (blocks) -> report

A time by itself says little on a machine that does other things too; a ratio of times taken side by side does.
"""

from unnorm.evaluation.latency.harness import compare_latency
from unnorm.evaluation.latency.report import LatencyReport
from unnorm.evaluation.latency.workloads import Workload

__all__ = ["LatencyReport", "Workload", "compare_latency"]
