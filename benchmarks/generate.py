"""What `generate` takes with an optimized model, eager and with compile=True, beside the model as it is, both ways.

    python benchmarks/generate.py [--shape "tiny llama"] [--new-tokens 128] [--budget 60]

Random weights of real shapes, one prompt of 32 tokens, greedy. Runs alternate in random ABBA blocks; ratios are to the
model as it is, eager, with the noise floor of that against itself. On a CPU with one thread it is the thread's own
time. Writes results/generate.md, or generate_gpu.md on a GPU.
"""

import argparse
import copy
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

import unnorm
from decode import DEVICE, DTYPE, SHAPES, base_of
from machine import machine_line
from unnorm.evaluation.latency.harness import block
from unnorm.evaluation.latency.report import ratio_of
from unnorm.surgery.compiled_decoding import compile_decoding_

OUT = Path(__file__).parent / "results" / ("generate_gpu.md" if DEVICE == "cuda" else "generate.md")
CLOCK = time.perf_counter if DEVICE == "cuda" or torch.get_num_threads() > 1 else time.thread_time
BASE, AGAIN = "as it is, eager", "as it is, eager, again"
PROMPT = 32


def arms(shape: str) -> dict[str, Any]:
    base = base_of(shape)
    ids = torch.randint(base.config.vocab_size, (4, 64)).to(DEVICE)
    compiled = copy.deepcopy(base)
    compile_decoding_(compiled, ids[:1, :8], 0.2)
    swapped = copy.deepcopy(base)
    unnorm.swap_(swapped, unnorm.DyT(), calibrate_on=ids)
    optimized, both = copy.deepcopy(swapped), copy.deepcopy(swapped)
    unnorm.optimize_(optimized)
    print(f"compiled logits differ by {unnorm.optimize_(both, compile=True).compiled_difference:.1e}", flush=True)
    return {
        BASE: base,
        AGAIN: base,
        "as it is, compiled": compiled,
        "DyT as swapped, eager": swapped,
        "DyT optimized, eager": optimized,
        "DyT optimized, compile=True": both,
    }


def timed(model: Any, ids: torch.Tensor, new: int) -> float:
    if DEVICE == "cuda":
        torch.cuda.synchronize()
    started = CLOCK()
    model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=new, min_new_tokens=new, do_sample=False)
    if DEVICE == "cuda":
        torch.cuda.synchronize()
    return CLOCK() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", choices=SHAPES, default="SmolLM2-135M" if DEVICE == "cuda" else "tiny llama")
    parser.add_argument("--new-tokens", type=int, default=128)
    parser.add_argument("--budget", type=float, default=60.0, help="seconds, beside the compiler's")
    parser.add_argument("--note", default="", help="a line for the table, such as what else the machine was doing")
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    models = arms(options.shape)
    ids = torch.randint(models[BASE].config.vocab_size, (1, PROMPT)).to(DEVICE)
    for model in models.values():
        for _ in range(2):
            timed(model, ids, options.new_tokens)
    generator = np.random.default_rng(0)
    seconds: dict[str, list[list[float]]] = {name: [] for name in models}
    until = time.monotonic() + options.budget
    while time.monotonic() < until or len(seconds[BASE]) < 6:
        taken: dict[str, list[float]] = {name: [] for name in models}
        for name in block(list(models), generator):
            taken[name].append(timed(models[name], ids, options.new_tokens))
        for name, pair in taken.items():
            seconds[name].append(pair)
    found = {name: ratio_of(np.array(pairs), np.array(seconds[BASE])) for name, pairs in seconds.items()}
    floor = found.pop(AGAIN).bound
    lines = ["# Generate", "", machine_line() + f", {DEVICE}, {DTYPE}", *filter(None, ["", options.note]), ""]
    lines += [f"{options.shape}, {PROMPT} tokens read and {options.new_tokens} added, {len(seconds[BASE])} blocks.", ""]
    lines += ["| arm | time, 95 % interval | noise floor |", "|---|---|---|"]
    lines += [f"| {n} | {r.value:.2f} × ({r.low:.2f} to {r.high:.2f}) | ± {floor:.1%} |" for n, r in found.items()]
    print("\n".join(lines))
    options.out.write_text("\n".join([*lines, ""]))


if __name__ == "__main__":
    main()
