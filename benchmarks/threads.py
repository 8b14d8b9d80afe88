"""What the way in which threads wait does to a small model's time, and to how much that scatters.

    python benchmarks/threads.py [--seconds 15]

Llamas of tiny layers, a row of 64, with OMP_WAIT_POLICY as it is by default, active and passive, one and two threads;
each in a process of its own, in turns. Scatter: of neighbouring runs' log-ratio, from its quartiles, over √2. Writes
results/threads.md.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch

from latency import layered
from machine import machine_line
from unnorm.evaluation.latency.machine import lay_elsewhere

OUT = Path(__file__).parent / "results" / "threads.md"
POLICIES = ("unset", "ACTIVE", "PASSIVE")
CELLS = [(layers, threads) for layers in (100, 33) for threads in (2, 1)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=15.0, help="each process")
    parser.add_argument("--cell", nargs=2, type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.cell:
        print(json.dumps(timed(options.cell[0], options.cell[1], options.seconds)))
        return
    lines = ["# How threads wait", "", machine_line(), "", "Times as ratios to the default with as many threads.", ""]
    lines += ["| layers | threads | OMP_WAIT_POLICY | median time | scatter | runs |", "|---" * 6 + "|"]
    for layers, threads in CELLS:
        reference = 0.0
        for policy in POLICIES:
            median, scatter, runs = in_process(layers, threads, policy, options.seconds)
            reference = reference or median
            lines.append(f"| {layers} | {threads} | {policy} | {median / reference:.2f} × | {scatter:.1%} | {runs} |")
            print(lines[-1], flush=True)
    OUT.write_text("\n".join([*lines, ""]))


def in_process(layers: int, threads: int, policy: str, seconds: float) -> tuple[float, float, int]:
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    if policy != "unset":
        environment["OMP_WAIT_POLICY"] = policy
    command = [sys.executable, __file__, "--seconds", str(seconds), "--cell", str(layers), str(threads)]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True)
    found: tuple[float, float, int] = json.loads(done.stdout)
    return found


@torch.no_grad()
def timed(layers: int, threads: int, seconds: float) -> tuple[float, float, int]:
    """Median seconds of a run, its relative scatter, and the number of runs."""
    torch.set_num_threads(threads)
    model, generator = layered(layers), np.random.default_rng(0)
    ids = torch.randint(32, (1, 64))
    times: list[float] = []
    until = time.monotonic() + seconds
    while time.monotonic() < until or len(times) < 12:
        lay_elsewhere(model, generator)
        started = time.perf_counter()
        model(ids, use_cache=False)
        times.append(time.perf_counter() - started)
    times = times[3:]  # the first warm up
    low, high = np.quantile(np.diff(np.log(times)), [0.25, 0.75])
    return float(np.median(times)), float((high - low) / 1.349 / 2**0.5), len(times)


if __name__ == "__main__":
    main()
