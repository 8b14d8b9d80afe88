"""Which operations the time of `decode.py`'s models goes to, with their norms and without: PyTorch's profiler, eager.

    python benchmarks/decode_profile.py [--shapes pythia-14m ...]

Writes results/decode_profile.md: milliseconds a forward pass of each operation by itself, for the largest prefill of
each shape. The profiler makes every operation slower, small ones most: read what grows or goes, not the sums.
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from decode import DEVICE, DTYPE, ON_CPU, SHAPES, arms, workload_of
from machine import machine_line
from unnorm.evaluation.latency.harness import NO_NORMS, without_norms

OUT = Path(__file__).parent / "results" / "decode_profile.md"
WARM, RUNS = 3, 10
LEAST = 0.01
"""Share of the base's time by which some arm's operation must differ from the base's to be a row."""


def milliseconds(model: Any, ids: torch.Tensor) -> dict[str, float]:
    """Operation -> milliseconds a forward pass, of the device's time where there is one."""
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if DEVICE == "cuda" else [])]
    with torch.no_grad():
        for _ in range(WARM):
            model(input_ids=ids)
        with profile(activities=activities) as found:
            for _ in range(RUNS):
                model(input_ids=ids)
            if DEVICE == "cuda":
                torch.cuda.synchronize()
    which = "self_device_time_total" if DEVICE == "cuda" else "self_cpu_time_total"
    return {event.key: getattr(event, which) / 1e3 / RUNS for event in found.key_averages()}


def table(name: str) -> list[str]:
    workload = workload_of("prefill", 1, 0)
    models = arms(name)
    if (bare := without_norms(models["as it is"])) is not None:
        models[NO_NORMS] = bare
    ids = torch.randint(models["as it is"].config.vocab_size, (workload.batch_size, workload.length), device=DEVICE)
    times = {arm: milliseconds(model, ids) for arm, model in models.items()}
    base = times["as it is"]
    whole = sum(base.values())
    differs = {
        operation: max(abs(found.get(operation, 0.0) - base.get(operation, 0.0)) for found in times.values())
        for operation in {operation for found in times.values() for operation in found}
    }
    lines = [
        f"## {name}, {workload.name}",
        "",
        "| operation | " + " | ".join(times) + " |",
        "|---" * (len(times) + 1) + "|",
    ]
    for operation in sorted(differs, key=lambda operation: -differs[operation]):
        if differs[operation] >= LEAST * whole:
            cells = [f"{found[operation]:.2f}" if operation in found else "" for found in times.values()]
            lines.append(f"| `{operation}` | {' | '.join(cells)} |")
    sums = [f"{sum(found.values()):.2f}" for found in times.values()]
    return [*lines, f"| all | {' | '.join(sums)} |", ""]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shapes", nargs="*", choices=SHAPES, default=list(SHAPES if DEVICE == "cuda" else ON_CPU))
    options = parser.parse_args()
    lines = ["# Where the time goes", "", machine_line() + f", {DEVICE}, {DTYPE}", ""]
    lines += [
        f"Milliseconds a forward pass, mean of {RUNS}, under PyTorch's profiler, by operation, without what it calls. "
        f"Only operations that differ between models by {LEAST:.0%} of the base's time.",
        "",
    ]
    for name in options.shapes:
        lines += table(name)
        print("\n".join(lines), flush=True)
        OUT.write_text("\n".join(lines))


if __name__ == "__main__":
    main()
