"""DyT alone, forward and forward + backward, against PyTorch's norms, a compiled DyT, Liger's, and a copy of the bytes.

    python benchmarks/kernels.py [--budget 6]

Each shape's functions run alternately in random ABBA blocks; ratios are to `F.layer_norm`, with the noise floor of
that against itself. Compiled DyT is by tanh, by the logistic function and by exp. On a CPU it is the thread's own time,
which leaves out what else ran. On a GPU twice: as called, launches included, and captured in a CUDA graph, the device's
time alone; and as a share of the speed at which a copy moves as many bytes. Writes results/kernels.md, or
kernels_gpu.md on a GPU.
"""

import argparse
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from machine import machine_line
from unnorm.evaluation.latency.harness import block
from unnorm.evaluation.latency.report import Ratio, ratio_of
from unnorm.norms.dyt import DyT
from unnorm.norms.logistic import logistic_of

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
OUT = Path(__file__).parent / "results" / ("kernels_gpu.md" if DEVICE == "cuda" else "kernels.md")
DTYPE = torch.bfloat16 if DEVICE == "cuda" else torch.float32
SHAPES = [(8192, 4096), (8192, 768), (1, 4096)] if DEVICE == "cuda" else [(1, 768), (33, 1001), (512, 768)]
HOW = ("captured", "as called") if DEVICE == "cuda" else ("as called",)
PASSES = ("forward", "forward + backward")
REFERENCE, AGAIN, COPY = "F.layer_norm", "F.layer_norm again", "copy"
TENSORS = {"forward": 2, "forward + backward": 5}
"""Of x's size, that a norm must read or write: x and y; then dy, x again, dx. A copy: two."""
CLOCK = time.perf_counter if DEVICE == "cuda" or torch.get_num_threads() > 1 else time.thread_time
INPUTS = 4
"""As many x take turns, so that on a GPU none of them waits in a cache."""
HEAD = "| shape | pass | | function | time | noise floor | of a copy's speed |\n" + "|---" * 7 + "|"


class Function(NamedTuple):
    call: Callable[[torch.Tensor], torch.Tensor]
    parameters: tuple[torch.Tensor, ...] = ()


class Plain(nn.Module):
    """The formula as one writes it down."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.full((1,), 0.5))
        self.weight, self.bias = nn.Parameter(torch.randn(width)), nn.Parameter(torch.randn(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (self.weight * torch.tanh(self.alpha * x.float()) + self.bias).to(x.dtype)


class Logistic(Plain):
    """The same by the logistic function: tanh(u) = 1 − 2 σ(−2u), with γ and β where the constants are."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        s = torch.sigmoid(self.alpha * -2 * x.float())
        return ((self.weight + self.bias) - 2 * self.weight * s).to(x.dtype)


class Exponential(Plain):
    """The same by exp alone, which a compiler makes one loop of vectors."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        e = torch.exp(self.alpha * 2 * x.float())
        return ((self.weight + self.bias) - 2 * self.weight / (1 + e)).to(x.dtype)


def functions(width: int, *, compiled: bool) -> dict[str, Function]:
    weight, bias = (torch.randn(width, device=DEVICE).to(DTYPE).requires_grad_() for _ in range(2))
    plain = Plain(width).to(DEVICE)
    layer_norm = Function(lambda x: F.layer_norm(x, (width,), weight, bias), (weight, bias))
    found = {
        REFERENCE: layer_norm,
        AGAIN: layer_norm,
        "F.rms_norm": Function(lambda x: F.rms_norm(x, (width,), weight), (weight,)),
        "DyT, the plain formula": of_module(plain),
        "DyT, as swapped": of_module(DyT().build(width, DEVICE)),
        "DyT, folded": of_module(folded(width)),
        COPY: Function(torch.clone),
    }
    if compiled:
        for name, kind in (("tanh", Plain), ("σ", Logistic), ("exp", Exponential)):
            found[f"DyT, {name}, compiled"] = of_module(cast(nn.Module, torch.compile(kind(width).to(DEVICE))))
    if DEVICE == "cuda" and find_spec("liger_kernel"):
        from liger_kernel.transformers.dyt import LigerDyT

        found["DyT, Liger's"] = of_module(LigerDyT(width).to(DEVICE, DTYPE))
    return found


def folded(width: int) -> nn.Module:
    """What `optimize_` leaves at a site whose readers have biases."""
    return DyT(affine=False).build(width, DEVICE) if DEVICE == "cuda" else logistic_of(DyT().build(width))[0]


def of_module(module: nn.Module) -> Function:
    return Function(module, tuple(module.parameters()))


def calls(name: str, function: Function, inputs: list[torch.Tensor], dy: torch.Tensor, which: str) -> Callable[[], Any]:
    """One pass for each of `inputs`."""
    if which == "forward" or name == COPY:

        @torch.no_grad()
        def forward() -> None:
            for x in inputs:
                function.call(x)

        return forward
    leaves = [x.detach().requires_grad_() for x in inputs]

    def both() -> None:
        for x in leaves:
            torch.autograd.grad(function.call(x), [x, *function.parameters], dy)

    return both


def captured(run: Callable[[], Any]) -> Callable[[], Any]:
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(3):
            run()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph.replay


def timed(run: Callable[[], Any], times: int) -> float:
    if DEVICE == "cuda":
        torch.cuda.synchronize()
    started = CLOCK()
    for _ in range(times):
        run()
    if DEVICE == "cuda":
        torch.cuda.synchronize()
    return (CLOCK() - started) / times


def measure(shape: tuple[int, int], which: str, how: str, budget: float, *, compiled: bool) -> list[str]:
    torch.manual_seed(0)
    inputs = [torch.randn(shape, device=DEVICE).to(DTYPE) for _ in range(INPUTS)]
    dy = torch.randn(shape, device=DEVICE).to(DTYPE)
    runs = {n: calls(n, f, inputs, dy, which) for n, f in functions(shape[1], compiled=compiled).items()}
    for run in runs.values():
        timed(run, 3)
    if how == "captured":
        runs = {name: captured(run) for name, run in runs.items()}
    least = 4e-3 if DEVICE == "cuda" else 1e-3
    times = max(1, int(least / timed(runs[REFERENCE], 10)))  # a sample is so long for the reference
    generator = np.random.default_rng(0)
    seconds: dict[str, list[list[float]]] = {name: [] for name in runs}
    until = time.monotonic() + budget
    while time.monotonic() < until or len(seconds[REFERENCE]) < 12:
        taken: dict[str, list[float]] = {name: [] for name in runs}
        for name in block(list(runs), generator):
            taken[name].append(timed(runs[name], times))
        for name, pair in taken.items():
            seconds[name].append(pair)
    found = {name: np.array(pairs) for name, pairs in seconds.items()}
    ratios = {n: ratio_of(s, found[REFERENCE]) for n, s in found.items()}
    speeds = {n: ratio_of(found[COPY] * TENSORS[which] / 2, s).value for n, s in found.items() if n != COPY}
    rows = [
        row(
            (f"{shape[0]} × {shape[1]}", which, how if len(HOW) > 1 else "", name),
            ratio,
            ratios[AGAIN],
            speeds.get(name),
        )
        for name, ratio in ratios.items()
    ]
    print("\n".join(rows), flush=True)
    return rows


def row(cells: tuple[str, ...], ratio: Ratio, floor: Ratio, speed: float | None) -> str:
    time = f"{ratio.value:.2f} × ({ratio.low:.2f} to {ratio.high:.2f})"
    share = "" if speed is None or DEVICE == "cpu" else f"{speed:.0%}"
    return f"| {' | '.join(cells)} | {time} | ± {floor.bound:.1%} | {share} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--budget", type=float, default=6.0, help="seconds a shape and pass")
    parser.add_argument("--no-compile", action="store_true", help="leave the compiled DyT out")
    parser.add_argument("--note", default="", help="a line for the table, such as what else the machine was doing")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--shapes", nargs="*", default=[f"{a}x{b}" for a, b in SHAPES], help="such as 512x768")
    options = parser.parse_args()
    rows: list[str] = []
    for text in options.shapes:
        height, width = map(int, text.split("x"))
        for which in PASSES:
            for how in HOW:
                rows += measure((height, width), which, how, options.budget, compiled=not options.no_compile)
    lines = ["# Kernels", "", machine_line() + f", {DEVICE}, {DTYPE}", *filter(None, ["", options.note]), ""]
    lines += ["Times as ratios to `F.layer_norm`, 95 % intervals. `forward` is without a gradient.", "", HEAD]
    options.out.write_text("\n".join([*lines, *rows, ""]))


if __name__ == "__main__":
    main()
