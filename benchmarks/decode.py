"""What norms cost a whole model, and how much of that is gone without them: prefill and decode, swapped and optimized.

    python benchmarks/decode.py [--budget 20] [--shapes pythia-14m ...] [--modes eager compile] [--workloads prefill]

Random weights of real shapes. Arms: the model as it is, DyT as swapped, DyT optimized, FixedScale optimized (nothing of
its block norms is left), and the bound, the same model without norms. Rows come in the order of what people run most,
so that a short run has those; what was not reached stands there as not measured. On a GPU with joules of a run. Writes
results/decode.md. Short rows on a CPU.
"""

import argparse
import copy
import time
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

import unnorm
from machine import machine_line
from unnorm.evaluation.latency import Workload, compare_latency
from unnorm.evaluation.latency.workloads import RunMode
from unnorm.norms.fixed_scale import FixedScale

OUT = Path(__file__).parent / "results" / "decode.md"
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DTYPE = torch.bfloat16 if DEVICE == "cuda" else torch.float32


def neox(width: int, layers: int, heads: int, inner: int) -> tuple[str, dict[str, Any]]:
    return "gpt_neox", {
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": inner,
        "vocab_size": 50304,
        "max_position_embeddings": 2048,
    }


def llama(
    width: int, layers: int, heads: int, kv_heads: int, inner: int, vocabulary: int
) -> tuple[str, dict[str, Any]]:
    return "llama", {
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "intermediate_size": inner,
        "vocab_size": vocabulary,
        "max_position_embeddings": 2048,
        "tie_word_embeddings": True,
    }


SHAPES = {
    "SmolLM2-135M": llama(576, 30, 9, 3, 1536, 49152),
    "llama 1B": llama(2048, 16, 32, 8, 8192, 128256),
    "distilgpt2": ("gpt2", {"n_layer": 6}),
    "pythia-410m": neox(1024, 24, 16, 4096),
    "pythia-14m": neox(128, 6, 4, 512),
    "tiny llama": llama(64, 4, 4, 2, 256, 512),
}
MODES: tuple[RunMode, ...] = (
    ("eager", "compiled-cuda-graphs", "cuda-graphs", "compile") if DEVICE == "cuda" else ("eager", "compile")
)
WORKLOADS = (("decode", 1), ("prefill", 1), ("decode", 32), ("prefill", 32))
ON_GPU = ("SmolLM2-135M", "llama 1B", "distilgpt2", "pythia-410m")
ON_CPU = ("tiny llama", "pythia-14m", "distilgpt2")
HEAD = (
    "| shape | workload | mode | arm | time | noise floor | verdict | of the norms' cost gone | joules |\n"
    + "|---" * 9
    + "|"
)


def base_of(name: str) -> Any:
    model_type, settings = SHAPES[name]
    torch.manual_seed(0)
    config = AutoConfig.for_model(model_type, **settings)
    return AutoModelForCausalLM.from_config(config).to(DEVICE, DTYPE).eval()


def arms(name: str) -> dict[str, Any]:
    base = base_of(name)
    ids = torch.randint(base.config.vocab_size, (4, 64)).to(DEVICE)
    found = {"as it is": base}
    for arm, spec in (("DyT as swapped", unnorm.DyT()), ("FixedScale optimized", FixedScale())):
        found[arm] = copy.deepcopy(base)
        unnorm.swap_(found[arm], spec, calibrate_on=ids)
    found["DyT optimized"] = copy.deepcopy(found["DyT as swapped"])
    for arm in ("DyT optimized", "FixedScale optimized"):
        print(name, arm, f"logits differ by {unnorm.optimize_(found[arm]).difference:.1e}", flush=True)
    return found


def workload_of(kind: str, batch: int, new_tokens: int) -> Workload:
    length, new = (512, new_tokens or 128) if DEVICE == "cuda" else (64, new_tokens or 16)
    if kind == "prefill":
        return Workload(kind="prefill", batch_size=batch, length=length)
    return Workload(kind="decode", batch_size=batch, length=length, new_tokens=new)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--budget", type=float, default=20.0, help="seconds a shape, workload and mode")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no row after so long")
    parser.add_argument("--shapes", nargs="*", choices=SHAPES, default=list(ON_GPU if DEVICE == "cuda" else ON_CPU))
    parser.add_argument("--modes", nargs="*", choices=MODES, default=list(MODES) if DEVICE == "cuda" else ["eager"])
    parser.add_argument("--workloads", nargs="*", choices=["prefill", "decode"], default=["prefill", "decode"])
    parser.add_argument("--batches", nargs="*", type=int, default=[1, 32])
    parser.add_argument("--new-tokens", type=int, default=0, help="in decode, instead of 128 (on a CPU 16)")
    parser.add_argument("--note", default="", help="a line for the table, such as what else the machine was doing")
    parser.add_argument("--arms", nargs="*", default=[], help="of these alone, beside the base and the bound")
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    plan = [
        (name, workload_of(kind, batch, options.new_tokens), mode)
        for kind, batch in WORKLOADS
        if kind in options.workloads and batch in options.batches
        for mode in options.modes
        for name in options.shapes
    ]
    models: dict[str, dict[str, Any]] = {}
    rows: list[str] = []
    started = time.monotonic()
    for done, (name, workload, mode) in enumerate(plan):
        if time.monotonic() - started > options.seconds:
            break
        if name not in models:
            models[name] = {
                arm: m for arm, m in arms(name).items() if not options.arms or arm in ("as it is", *options.arms)
            }
        rows += measured(name, models[name], workload, mode, options.budget)
        left = [f"| {n} | {w.name} | {m} | | not measured | | | | |" for n, w, m in plan[done + 1 :]]
        write(rows + left, options.note, options.out)


def write(rows: list[str], note: str, out: Path) -> None:
    """The table so far."""
    lines = ["# Decode", "", machine_line() + f", {DEVICE}, {DTYPE}", *filter(None, ["", note]), ""]
    lines += ["Times as ratios to the model as it is, 95 % intervals. Gone: (T − T_arm) / (T − T_bound).", "", HEAD]
    out.write_text("\n".join([*lines, *rows, ""]))


def measured(name: str, models: dict[str, Any], workload: Workload, mode: RunMode, budget: float) -> list[str]:
    torch.compiler.reset()
    joules_seconds = budget / 10 if DEVICE == "cuda" else 0.0
    report = compare_latency(
        models, workload, budget_seconds=budget, mode=mode, energy_seconds=joules_seconds, quiet=True
    )
    energy = report.energy.get(workload.name, {})
    rows = []
    for c in report.comparisons:
        share = "" if c.share_of_norms is None else f"{c.share_of_norms:.0%}"
        ratio = f"{c.ratio.value - 1:+.1%} ({c.ratio.low - 1:+.1%} to {c.ratio.high - 1:+.1%})"
        joules = f"{energy[c.model]:.3g} of {energy[c.reference]:.3g}" if c.model in energy else ""
        cells = [name, workload.name, mode, c.model, ratio, f"± {c.floor.bound:.1%}", c.verdict, share, joules]
        rows.append(f"| {' | '.join(cells)} |")
    print("\n".join(rows), flush=True)
    return rows


if __name__ == "__main__":
    main()
