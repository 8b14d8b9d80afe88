"""What each norm costs before any training: calibrated, corrected, recovered. Writes results/surgery_start.json.

    python benchmarks/surgery_start.py [--base neox-4m ...] [--only NAME ...]

Held-out loss in nats per token on the last 6 % of GSM8K's rows from 3,000 on, in Alpaca's prompt format, every token
counted, fp32; calibrated on tokens of the rows before them. The same on novels, which no part of a calibration saw:
what fitting to one kind of text costs on another.
"""

import argparse
import copy
import json
import time
from pathlib import Path
from typing import Any

import torch

from machine import SHARED, machine_line
from unnorm import recover_, swap_, unswap_
from unnorm.norms.spec import known_norms, spec_from
from unnorm.surgery.base import load_base, load_tokenizer

OUT = Path(__file__).parent / "results" / "surgery_start.json"
BASES = ("neox-4m", "gpt2-4m", "llama-3m")
LENGTH, HELD_OUT_ROWS = 256, 60
PROMPT = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Response:\n{output}"
)
RECOVER_TOKENS = 153_600
DYT, CHANNEL = {"norm": "dyt"}, {"norm": "dyt", "alpha": "channel"}


def packed(tokenizer: Any, texts: list[str]) -> torch.Tensor:
    """Token ids [N, 256], texts one after another with the end token between them."""
    ids = [i for text in texts for i in [*tokenizer(text)["input_ids"], tokenizer.eos_token_id or 0]]
    return torch.tensor(ids[: len(ids) // LENGTH * LENGTH]).view(-1, LENGTH)


@torch.no_grad()
def loss(model: Any, rows: torch.Tensor) -> float:
    nats, count = 0.0, 0
    for batch in rows[:HELD_OUT_ROWS].split(10):
        logits = model(batch, use_cache=False).logits[:, :-1].float()
        nats += float(torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten(), reduction="sum"))
        count += batch[:, 1:].numel()
    return nats / count


def variants() -> list[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Name, norm, options of the start: tokens (None: bare), what learns in its recovery, what else `swap_` takes."""
    plain = [(name, {"norm": name}, {"tokens": 4096}) for name in known_norms()]
    corrected = [(f"{name}, corrected", {"norm": name}, {"tokens": 16384, "correct": "all"}) for name in known_norms()]
    return [
        *plain,
        ("dyt, one α a channel", CHANNEL, {"tokens": 4096}),
        ("dyt, 16,384 tokens", DYT, {"tokens": 16384}),
        ("dyt, sequential", DYT, {"tokens": 4096, "mode": "sequential"}),
        ("dyt, parallel", DYT, {"tokens": 4096, "mode": "parallel"}),
        ("dyt, 1 % outliers left out", DYT, {"tokens": 4096, "outliers": 0.01}),
        ("dyt, bare", DYT, {"tokens": None}),
        ("dyt, inherit", DYT, {"tokens": None, "inherit": True}),
        ("dyt, readers corrected", DYT, {"tokens": 16384, "correct": "readers"}),
        *corrected,
        ("dyt, recovered", DYT, {"tokens": 16384, "recover": "norms"}),
        ("dyt, corrected and recovered", DYT, {"tokens": 16384, "correct": "all", "recover": "norms"}),
        (
            "dyt, one α a channel, corrected and recovered",
            CHANNEL,
            {"tokens": 16384, "correct": "all", "recover": "norms"},
        ),
        (
            "dyt, corrected and recovered, layers too",
            DYT,
            {"tokens": 16384, "correct": "all", "recover": "corrected"},
        ),
    ]


def measure(base: str, found: dict[str, Any], only: list[str]) -> None:
    model, tokenizer = load_base(str(SHARED / "bases" / base)), load_tokenizer(str(SHARED / "bases" / base))
    rows = json.loads((SHARED / "data" / "gsm8k" / "train_alpaca_format.json").read_text())[3000:]
    cut = len(rows) - int(len(rows) * 0.06)
    train, held_out = (packed(tokenizer, [PROMPT.format(**row) for row in part]) for part in (rows[:cut], rows[cut:]))
    novel = sorted((SHARED / "data" / "corpus").rglob("*.txt"))[0].read_text(errors="replace")
    other = packed(tokenizer, [novel[len(novel) // 2 :][:200_000]])
    original = copy.deepcopy(model)
    losses = found.setdefault(base, {})
    losses["original"] = {"loss": loss(model, held_out), "novel": loss(model, other)}
    for name, norm, options in variants():
        if only and name not in only:
            continue
        options = dict(options)
        tokens, learns = options.pop("tokens"), options.pop("recover", None)
        count = (tokens or 0) // LENGTH
        started = time.perf_counter()
        report = swap_(model, spec_from(norm), calibrate_on=train[:count].split(8) if tokens else None, **options)
        calibrated = time.perf_counter() - started
        if learns:
            recover_(
                model,
                original,
                train[count:],
                tokens=RECOVER_TOKENS,
                batch_tokens=1024,
                train=learns,
                precision="fp32",
                quiet=True,
            )
        fit = report.calibration
        losses[name] = {
            "loss": loss(model, held_out),
            "novel": loss(model, other),
            "calibration_seconds": calibrated if tokens else 0.0,
            "seconds": time.perf_counter() - started,
            "lowest_r2": min(site.r2 for site in fit.sites) if fit else None,
        }
        gap = losses[name]["loss"] / losses["original"]["loss"] - 1
        print(f"{base}: {name}: {gap:+.2%} ({losses[name]['seconds']:.0f} s)", flush=True)
        unswap_(model)
        OUT.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", nargs="*", default=list(BASES))
    parser.add_argument("--only", nargs="*", default=[], help="names of what to measure; the rest of the file stays")
    arguments = parser.parse_args()
    found = json.loads(OUT.read_text()) if OUT.is_file() else {}
    if arguments.only:
        found["later"] = found.get("later", {}) | dict.fromkeys(arguments.only, machine_line())
    else:
        found["machine"], found["later"] = machine_line(), {}
    for base in arguments.base:
        measure(base, found, arguments.only)


if __name__ == "__main__":
    main()
