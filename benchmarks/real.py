"""Swap and recovery on a real pretrained model: results/real/README.md.

    python benchmarks/real.py text --base BASE --out TEXT.npz            encode real text once, for `run` and machines
           [--sources alpaca] [--template chat]                          that have no data
    python benchmarks/real.py run --base BASE --text TEXT.npz --out OUT  [--budget-minutes 14] [--only ROW ...]
                                                                         [--scale 0.01 for a rehearsal on a CPU]

`run` takes the most important rows first, keeps each as it is done (OUT/rows.jsonl) and leaves out what the time left
does not allow. It needs the repository, a base, TEXT.npz and PyTorch, transformers, peft, pydantic and orjson.
"""

import argparse
import copy
import json
import os
import sys
import time
import traceback
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("HF_HUB_OFFLINE", "1")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))

import numpy as np
import torch

from machine import SHARED, machine_line
from unnorm.metrics.token_sums import IGNORED
from unnorm.study.arms import BENT_AFTER, STRAIGHT_AT

LENGTH = 512
ROW_TOKENS = {"train": None, "instructions": 66_000, "novels": 66_000}
WATCHED_TOKENS = 16_384
SOURCES = ("alpaca", "gsm8k", "sharegpt", "novels")


class Row(NamedTuple):
    """One recovery. tokens: in full size. spec: of the norm. options: of `recover_`. tuned: takes the rates of --rates.
    fold: `optimize_` is to fold the norms away afterwards. correct: the layers that are corrected before it."""

    name: str
    tokens: int
    spec: dict[str, Any]
    options: dict[str, Any]
    tuned: bool = False
    fold: bool = False
    correct: str = "all"


def rates(times: float, tokens: int) -> dict[str, float]:
    """The default rates of recovering with all weights in steps of so many tokens, so many times over."""
    from unnorm.tuning.recover_settings import recover_settings

    default = recover_settings(batch_tokens=tokens).training(row_tokens=LENGTH)
    assert default.norm_learning_rate is not None
    return {
        "learning_rate": default.learning_rate * times,
        "norm_learning_rate": default.norm_learning_rate * times,
    }


CHANNEL = {"norm": "dyt", "alpha": "channel"}
SCALAR = {"norm": "dyt", "alpha": "scalar"}
FIXED = {"norm": "fixedscale", "center": False}
STRAIGHTENED = {"straighten": STRAIGHT_AT, "straighten_after": BENT_AFTER}
BUT_MLPS = {**STRAIGHTENED, "straighten_sites": ("attention", "final")}
LARGE = {"batch_tokens": 16_384}
MIDDLE = {"batch_tokens": 8_192}
LORA = {"train": "lora", "lora": {"r": 64, "alpha": 128, "dropout": 0.0}}
LORA_16 = {"train": "lora", "lora": {"r": 16, "alpha": 32, "dropout": 0.0}}
ROWS = [
    Row("dyt-10M", 10_000_000, CHANNEL, LARGE, tuned=True),
    Row("dyt-1.6M", 1_600_000, CHANNEL, MIDDLE),
    Row("straightened-1.6M", 1_600_000, CHANNEL, {**MIDDLE, **STRAIGHTENED}, fold=True),
    Row("straightened-attention-1.6M", 1_600_000, CHANNEL, {**MIDDLE, **BUT_MLPS}, fold=True),
    Row("dyt-lora64-1.6M", 1_600_000, CHANNEL, {**MIDDLE, **LORA, "learning_rate": 2e-3}),
    Row("dyt-uncorrected-1.6M", 1_600_000, CHANNEL, MIDDLE, correct="none"),
    Row("dyt-scalar-1.6M", 1_600_000, SCALAR, MIDDLE),
    Row("dyt-1.6M-rate-2x", 1_600_000, CHANNEL, {**MIDDLE, **rates(2, 8_192)}),
    Row("dyt-1.6M-rate-half", 1_600_000, CHANNEL, {**MIDDLE, **rates(0.5, 8_192)}),
    Row("dyt-raw-1.6M", 1_600_000, CHANNEL, {**MIDDLE, "norm_parameters": "raw", "norm_learning_rate": 2e-3}),
    Row("derf-1.6M", 1_600_000, {"norm": "derf", "alpha": "channel"}, MIDDLE),
    Row("dyt-norms-1.6M", 1_600_000, CHANNEL, {**MIDDLE, "train": "norms"}),
    Row("dyt-lora16-1.6M", 1_600_000, CHANNEL, {**MIDDLE, **LORA_16}),
    Row("dyt-0.7M", 700_000, CHANNEL, {}),
    Row("straightened-10M", 10_000_000, CHANNEL, {**LARGE, **STRAIGHTENED}, tuned=True, fold=True),
    Row("dyt-lora64-10M", 10_000_000, CHANNEL, {**LARGE, **LORA, "learning_rate": 2e-3}),
    Row("dyt-30M", 30_000_000, CHANNEL, LARGE, tuned=True),
]


def make_text(base: str, out: Path, sources: list[str], template: str) -> None:
    """Alpaca, GSM8K, ShareGPT and novels, or some of them, in proportion to their size: packed rows of 512 tokens."""
    import tempfile

    from unnorm.data.mixture import Mixture
    from unnorm.data.prepare import Source
    from unnorm.data.settings import DataSettings
    from unnorm.surgery.base import load_tokenizer

    tokenizer = load_tokenizer(base)
    with tempfile.TemporaryDirectory() as folder:
        novels = Path(folder) / "novels.jsonl"
        books = (
            (SHARED / "data" / "corpus" / "english_novels_25mb.txt").read_text(encoding="utf-8").split("<|endoftext|>")
        )
        with open(novels, "w", encoding="utf-8") as file:
            for book in books:
                for at in range(0, len(book), 1800):
                    file.write(json.dumps({"text": book[at : at + 1800]}) + "\n")
        files = {
            "alpaca": SHARED / "data" / "alpaca" / "alpaca_data.json",
            "gsm8k": SHARED / "data" / "gsm8k" / "train_alpaca_format.json",
            "sharegpt": SHARED / "data" / "sharegpt" / "sharegpt_real_1k.json",
            "novels": novels,
        }
        settings = {
            name: DataSettings(
                source=str(path),
                name=name,
                max_length=LENGTH,
                loss_on="all",
                too_long="split",
                template=template if name != "novels" else "alpaca",
            )
            for name, path in files.items()
        }
        sizes = {name: Source(settings[name], tokenizer).epoch_tokens() for name in sources}
        print(sizes, flush=True)
        train = Mixture([(settings[name], float(size)) for name, size in sizes.items()], tokenizer)
        said = {name: float(sizes[name]) for name in sources if name != "novels"}
        parts = {
            "train": train.train(sum(sizes.values()), 0),
            "instructions": Mixture([(settings[n], s) for n, s in said.items()], tokenizer).held_out(66_000),
            "novels": Mixture([(settings["novels"], 1.0)], tokenizer).held_out(66_000),
        }
    arrays: dict[str, Any] = {}
    for name, rows in parts.items():
        batch = rows.collate(rows.rows)
        arrays |= {
            f"{name}|ids": batch["input_ids"].numpy().astype(np.uint16),
            f"{name}|places": batch["position_ids"].numpy().astype(np.uint16),
            f"{name}|tokens": batch["tokens"].numpy().astype(np.uint16),
        }
        if name != "train":
            arrays[f"{name}|answers"] = (batch["labels"] != IGNORED).numpy()
        print(name, rows.tokens, "tokens", flush=True)
    np.savez_compressed(out, **arrays)


class RecoveryText:
    """Rows of TEXT.npz as batches."""

    def __init__(self, path: Path) -> None:
        found = np.load(path)
        self.arrays = {key: torch.from_numpy(found[key].astype(np.int64)) for key in found.files}

    def batch(self, part: str, rows: Any) -> dict[str, torch.Tensor]:
        names = {"input_ids": "ids", "position_ids": "places", "tokens": "tokens"}
        batch = {name: self.arrays[f"{part}|{key}"][rows] for name, key in names.items()}
        if part != "train":  # gaps count answers, and all of plain text
            batch["labels"] = batch["input_ids"].where(self.arrays[f"{part}|answers"][rows] != 0, IGNORED)
        return batch

    def held_out(self, part: str, tokens: int) -> list[dict[str, torch.Tensor]]:
        rows = max(1, min(len(self.arrays[f"{part}|ids"]), tokens // LENGTH))
        return [self.batch(part, slice(i, min(i + 16, rows))) for i in range(0, rows, 16)]

    def order(self, tokens: int) -> list[int]:
        """Rows of `tokens` tokens, in a fresh order each time they are gone through."""
        counts = self.arrays["train|tokens"]
        generator = torch.Generator().manual_seed(0)
        chosen: list[int] = []
        while tokens > 0:
            for index in torch.randperm(len(counts), generator=generator).tolist():
                chosen.append(index)
                tokens -= int(counts[index])
                if tokens <= 0:
                    break
        return chosen


class Bench:
    """The base, its text, and where rows are kept."""

    def __init__(self, base: str, text: Path, out: Path, scale: float) -> None:
        from unnorm.surgery.base import load_base

        self.scale, self.out = scale, out
        self.text = RecoveryText(text)
        self.device = torch.accelerator.current_accelerator() or torch.device("cpu")
        self.original = load_base(base).to(self.device)
        out.mkdir(parents=True, exist_ok=True)
        self.started = time.perf_counter()

    def keep(self, name: str, **values: Any) -> None:
        record = {"row": name, "at_seconds": round(time.perf_counter() - self.started, 1), **values}
        with open(self.out / "rows.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        shown = {key: value for key, value in record.items() if key not in ("curve", "losses", "sites")}
        print(json.dumps(shown), flush=True)

    def measure(self, model: Any) -> dict[str, Any]:
        """Held-out loss and gap on instructions and on novels."""
        from unnorm.tuning.distance import distance

        found: dict[str, Any] = {}
        for part in ("instructions", "novels"):
            tokens = max(2048, int(66_000 * min(1.0, self.scale * 4)))
            far = distance(model, self.original, self.text.held_out(part, tokens), broken_apart=True)
            found |= {f"{part}_gap": far.gap, f"{part}_loss": far.loss, f"{part}_original": far.original_loss}
            found |= {f"{part}_kl": far.kl, f"{part}_tokens": far.tokens, f"{part}_broken_rows": far.broken}
        return found

    def calibration(self, rows: int) -> dict[str, torch.Tensor]:
        batch = self.text.batch("train", slice(0, rows))
        return {name: batch[name].to(self.device) for name in ("input_ids", "position_ids")}

    def swapped(self, spec: dict[str, Any], rows: int = 8, **options: Any) -> Any:
        import unnorm
        from unnorm.norms.spec import spec_from

        model = copy.deepcopy(self.original)
        chosen = {"calibrate_on": self.calibration(rows), **options}
        sites = chosen.pop("sites", None)
        made = spec_from(spec)
        report = unnorm.swap_(model, made if sites is None else dict.fromkeys(sites, made), **chosen)
        return model, report

    def starts(self, corrected: bool = False) -> None:
        """Every start before training, in closed form; or those with corrected layers, which take longer."""
        self.keep("original", **self.measure(self.original))
        tries: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
            "dyt-bare": (SCALAR, {"calibrate_on": None}),
            "dyt": (SCALAR, {}),
            "dyt-channel": (CHANNEL, {}),
            "dyt-channel, large tokens fitted too": (CHANNEL, {"outliers": 0.0}),
            "dyt-channel, 2 % of tokens left out": (CHANNEL, {"outliers": 0.02}),
            "dyt-channel, fitted in parallel": (CHANNEL, {"mode": "parallel"}),
            "dyt-channel, attention sites": (CHANNEL, {"sites": ["attention"]}),
            "dyt-channel, mlp sites": (CHANNEL, {"sites": ["mlp"]}),
            "dyt-channel, final site": (CHANNEL, {"sites": ["final"]}),
            "derf-channel": ({"norm": "derf", "alpha": "channel"}, {}),
            "fixedscale": (FIXED, {}),
        }
        if corrected:
            tries = {
                "dyt-channel": (CHANNEL, {}),
                "dyt-channel, readers corrected": (CHANNEL, {"correct": "readers"}),
                "dyt-channel, all layers corrected": (CHANNEL, {"correct": "all"}),
                "fixedscale": (FIXED, {}),
                "fixedscale, 3 % of tokens left out": (FIXED, {"outliers": 0.03}),
            }
        for name, (spec, options) in tries.items():
            begun = time.perf_counter()
            model, report = self.swapped(spec, **options)
            seconds = time.perf_counter() - begun
            fits = [site.r2 for site in report.calibration.sites] if report.calibration else []
            self.keep(f"start: {name}", lowest_r2=min(fits, default=None), seconds=seconds, **self.measure(model))
            del model

    def recover(self, row: Row) -> None:
        """Run a row and keep it."""
        import tempfile

        from unnorm.tuning.recover import RecoveryRun, RecoveryText, distil_
        from unnorm.tuning.recover_settings import recover_settings

        model, _ = self.swapped(row.spec, rows=16, correct=row.correct)
        tokens = max(int(row.tokens * self.scale), 4 * 2048)
        settings = recover_settings(tokens=tokens, **row.options)
        watched = self.text.held_out("instructions", max(2048, int(WATCHED_TOKENS * min(1.0, self.scale * 8))))
        text = RecoveryText(self.text.order(tokens), lambda rows: self.text.batch("train", rows), LENGTH, watched)
        torch.cuda.reset_peak_memory_stats() if self.device.type == "cuda" else None
        with tempfile.TemporaryDirectory() as folder:
            run = RecoveryRun(
                Path(folder), row.name, evaluate_every=max(LENGTH, tokens // (6 if tokens > 100_000 else 1))
            )
            report = distil_(model, self.original, text, settings, run, seed=0)
        peak = torch.cuda.max_memory_allocated() / 2**30 if self.device.type == "cuda" else None
        values = report.to_dict()
        values.pop("losses")
        values |= {"learning_rate": row.options.get("learning_rate"), "batch_tokens": row.options.get("batch_tokens")}
        measured = self.measure(model)
        self.keep(row.name, tokens_per_second=report.tokens / report.seconds, peak_gib=peak, **{**values, **measured})
        if row.fold:
            self.fold(row.name, model)

    def fold(self, name: str, model: Any) -> None:
        import unnorm

        report = unnorm.optimize_(model.eval(), head=True)
        done = [site.done for site in report.sites]
        counts = {what: done.count(what) for what in sorted(set(done))}
        self.keep(f"{name}, folded", sites=counts, folded=counts, difference=report.difference, **self.measure(model))


def run(
    base: str, text: Path, out: Path, budget: float, only: list[str], scale: float, tuned: dict[str, float]
) -> None:
    """tuned: the rates of the long rows; the default ones where it is empty."""
    torch.set_float32_matmul_precision("high")  # fp32 products of measurements by TF32 on a GPU, in both models
    begun = time.perf_counter()
    bench = Bench(base, text, out, scale)
    with open(out / "machine.txt", "w", encoding="utf-8") as file:
        file.write(machine_line() + "\n")
    if not only or "starts" in only:
        bench.starts()
    if "corrected-start" in only:
        bench.starts(corrected=True)
    rate = None  # tokens a second of the last row, which tells whether the next one fits
    for row in [row for row in ROWS if not only or row.name in only]:
        left = budget - (time.perf_counter() - begun)
        if rate is not None and row.tokens * scale / rate > left - 15:
            bench.keep(row.name, skipped=f"{left:.0f} s are left")
            continue
        if row.tuned:
            row = row._replace(options={**row.options, **tuned})
        started = time.perf_counter()
        try:
            bench.recover(row)
        except Exception as error:  # one row that fails costs no other
            bench.keep(row.name, failed=f"{type(error).__name__}: {error}"[:500])
            traceback.print_exc()
            continue
        rate = max(row.tokens * scale, 4 * 2048) / (time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["text", "run"])
    parser.add_argument("--base", required=True)
    parser.add_argument("--text", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--sources", nargs="*", choices=SOURCES, default=SOURCES)
    parser.add_argument("--template", default="alpaca", help="of instructions: alpaca or chat")
    parser.add_argument("--budget-minutes", type=float, default=60.0)
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--scale", type=float, default=1.0, help="of every number of tokens, for a rehearsal")
    parser.add_argument("--rates", type=float, help="of the long rows, as a multiple of the default ones")
    a = parser.parse_args()
    if a.what == "text":
        make_text(a.base, a.out, a.sources, a.template)
    else:
        run(a.base, a.text, a.out, 60 * a.budget_minutes, a.only, a.scale, rates(a.rates, 16_384) if a.rates else {})


if __name__ == "__main__":
    main()
