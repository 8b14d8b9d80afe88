"""DyT alone, forward and forward + backward, against PyTorch's norms, a compiled DyT, Liger's, and a copy of the bytes.

    python benchmarks/kernels.py [--budget 6]

Each shape's functions run alternately in random ABBA blocks; ratios are to `F.layer_norm`, with the noise floor of that
against itself. Writes results/kernels.md. On a GPU: bf16 at [8192, 4096] and others; elsewhere fp32 and small shapes.
"""

import argparse
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from machine import machine_line
from unnorm.evaluation.latency.blocks import block
from unnorm.evaluation.latency.ratios import Ratio, ratio_of
from unnorm.norms.dyt import DyT

OUT = Path(__file__).parent / "results" / "kernels.md"
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DTYPE = torch.bfloat16 if DEVICE == "cuda" else torch.float32
SHAPES = [(8192, 4096), (8192, 768), (1, 4096)] if DEVICE == "cuda" else [(1, 768), (33, 1001), (512, 768)]
REFERENCE, AGAIN = "F.layer_norm", "F.layer_norm again"
HEAD = "| shape | pass | function | time | noise floor |\n|---|---|---|---|---|"
Function = Callable[[torch.Tensor], torch.Tensor]


class Plain(nn.Module):
    """The formula as one writes it down."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.full((1,), 0.5))
        self.weight, self.bias = nn.Parameter(torch.randn(width)), nn.Parameter(torch.randn(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (self.weight * torch.tanh(self.alpha * x.float()) + self.bias).to(x.dtype)


def functions(width: int, *, compiled: bool) -> dict[str, Function]:
    weight, bias = (torch.randn(width, device=DEVICE, requires_grad=True) for _ in range(2))
    low_weight, low_bias = (p.detach().to(DTYPE).requires_grad_() for p in (weight, bias))
    module = DyT().build(width, DEVICE)
    folded = DyT(affine=False).build(width, DEVICE)

    plain = Plain(width).to(DEVICE)

    found: dict[str, Function] = {
        REFERENCE: lambda x: F.layer_norm(x, (width,), low_weight, low_bias),
        AGAIN: lambda x: F.layer_norm(x, (width,), low_weight, low_bias),
        "F.rms_norm": lambda x: F.rms_norm(x, (width,), low_weight),
        "DyT, the plain formula": plain,
        "DyT, as swapped": module,
        "DyT, folded": folded,
        "copy": torch.clone,
    }
    if compiled:
        found["DyT, compiled"] = torch.compile(plain)
    if DEVICE == "cuda" and find_spec("liger_kernel"):
        from liger_kernel.transformers.dyt import LigerDyT

        found["DyT, Liger's"] = LigerDyT(width).to(DEVICE, DTYPE)
    return found


def timed(run: Callable[[], Any], times: int) -> float:
    if DEVICE == "cuda":
        torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(times):
        run()
    if DEVICE == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - started) / times


def passes(function: Function, x: torch.Tensor, dy: torch.Tensor, which: str) -> Callable[[], Any]:
    if which == "forward":

        def forward() -> None:
            with torch.no_grad():
                function(x)

        return forward
    leaf = x.detach().requires_grad_()
    return lambda: function(leaf).backward(dy)


def measure(shape: tuple[int, int], which: str, budget: float, *, compiled: bool) -> list[str]:
    torch.manual_seed(0)
    x, dy = (torch.randn(shape, device=DEVICE).to(DTYPE) for _ in range(2))
    runs = {name: passes(f, x, dy, which) for name, f in functions(shape[1], compiled=compiled).items()}
    for run in runs.values():
        timed(run, 3)
    times = max(1, int(1e-3 / timed(runs[REFERENCE], 10)))  # a sample is a millisecond of the reference
    generator = np.random.default_rng(0)
    seconds: dict[str, list[list[float]]] = {name: [] for name in runs}
    until = time.monotonic() + budget
    while time.monotonic() < until or len(seconds[REFERENCE]) < 12:
        taken: dict[str, list[float]] = {name: [] for name in runs}
        for name in block(list(runs), generator):
            taken[name].append(timed(runs[name], times))
        for name, pair in taken.items():
            seconds[name].append(pair)
    ratios = {n: ratio_of(np.array(s), np.array(seconds[REFERENCE])) for n, s in seconds.items() if n != REFERENCE}
    rows = [row(shape, which, name, ratio, ratios[AGAIN]) for name, ratio in ratios.items()]
    print("\n".join(rows), flush=True)
    return rows


def row(shape: tuple[int, int], which: str, name: str, ratio: Ratio, floor: Ratio) -> str:
    time = f"{ratio.value:.2f} × ({ratio.low:.2f} to {ratio.high:.2f})"
    return f"| {shape[0]} × {shape[1]} | {which} | {name} | {time} | ± {floor.bound:.1%} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--budget", type=float, default=6.0, help="seconds a shape and pass")
    parser.add_argument("--no-compile", action="store_true", help="leave the compiled DyT out")
    parser.add_argument("--note", default="", help="a line for the table, such as what else the machine was doing")
    options = parser.parse_args()
    rows: list[str] = []
    for shape in SHAPES:
        for which in ("forward", "forward + backward"):
            rows += measure(shape, which, options.budget, compiled=not options.no_compile)
    if DEVICE == "cpu":
        rows.append("| 8192 × 4096, bf16, on a GPU | both | all of them, Triton's and Liger's too | not measured | |")
    lines = ["# Kernels", "", machine_line() + f", {DEVICE}, {DTYPE}", *filter(None, ["", options.note]), ""]
    lines += ["Times as ratios to `F.layer_norm`, 95 % intervals. `forward` is without a gradient.", "", HEAD]
    OUT.write_text("\n".join([*lines, *rows, ""]))


if __name__ == "__main__":
    main()
