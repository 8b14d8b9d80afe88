"""How far a swapped model is from its original, text by text, in fp32 and under bf16 autocast.

    python benchmarks/gap_by_text.py BASE MODEL --data alpaca=alpaca_data.json --data novels=novels.jsonl

One row a text, of tokens that are held out of every training on it.
"""

import argparse
from pathlib import Path
from typing import Any

import torch

import unnorm
from machine import machine_line
from unnorm.data.mixture import Mixture
from unnorm.data.settings import DataSettings
from unnorm.surgery.base import context_length, load_base, load_tokenizer
from unnorm.surgery.dtypes import to_fp32_
from unnorm.tuning.distance import Distance, distance


def read(model: Any, texts: dict[str, str | Path]) -> dict[str, DataSettings]:
    """How each text is read, in rows that `model` takes."""
    length = min(512, context_length(model) or 512)
    how: dict[str, Any] = {"max_length": length, "loss_on": "all", "too_long": "split"}
    return {name: DataSettings(source=str(path), **how) for name, path in texts.items()}


def held_out(settings: DataSettings, tokenizer: Any, tokens: int) -> dict[str, torch.Tensor]:
    """All held-out rows of a text as one batch."""
    rows = Mixture([(settings, 1.0)], tokenizer, quiet=True).held_out(tokens)
    return rows.collate(rows.rows)


def both(model: Any, original: Any, batch: dict[str, torch.Tensor]) -> tuple[Distance, Distance]:
    """The distance in fp32, and under bf16 autocast."""
    found = []
    for lower in (False, True):
        with torch.autocast(model.device.type, torch.bfloat16, enabled=lower):
            found.append(distance(model, original, [batch]))
    return found[0], found[1]


def arguments(description: str) -> tuple[argparse.Namespace, dict[str, str | Path]]:
    """What the command line asks for, `base`, `model` and `tokens`; and the texts, name -> path."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base")
    parser.add_argument("model", help="a folder that unnorm wrote")
    parser.add_argument("--data", action="append", required=True, metavar="NAME=PATH")
    parser.add_argument("--tokens", type=int, default=2048)
    asked = parser.parse_args()
    return asked, dict(entry.split("=", 1) for entry in asked.data)


def main() -> None:
    a, texts = arguments(__doc__ or "")
    base, tokenizer, model = load_base(a.base), load_tokenizer(a.base), unnorm.load(a.model)
    to_fp32_(model)
    print(machine_line(), flush=True)
    print("| held-out text | tokens | original's loss | gap | under bf16 autocast | KL | same next token |")
    print("|---|---|---|---|---|---|---|", flush=True)
    for name, settings in read(base, texts).items():
        whole, lower = both(model, base, held_out(settings, tokenizer, a.tokens))
        print(
            f"| {name} | {whole.tokens:,} | {whole.original_loss:.3f} | {whole.gap:+.1%} | {lower.gap:+.1%} | "
            f"{whole.kl:.3f} | {whole.agreement:.1%} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
