"""What a model of fixed scales does, text by text, and what is left of its norms once they are folded away.

    python benchmarks/linear_model.py BASE MODEL --data alpaca=alpaca_data.json --data novels=novels.jsonl

One row a text, of tokens that are held out of every training on it; the last one is of arbitrary tokens. A row of a
text has run away if one of its tokens comes into a norm at over eight times the median token's size there.
"""

import copy
from typing import Any

import torch

import unnorm
from gap_by_text import arguments, held_out, read
from machine import machine_line
from unnorm.metrics.batches import counted_tokens
from unnorm.norms.identity import IdentityNorm
from unnorm.surgery.base import load_base, load_tokenizer
from unnorm.surgery.passes import run, watched
from unnorm.surgery.swap import record_of
from unnorm.tuning.distance import distance
from unnorm.tuning.stream_sizes import RUN_AWAY, in_medians

ROWS, LENGTH = 8, 256
"""Of arbitrary tokens."""


def largest(model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """For each row, the largest token's size at any norm, in units of the median one there: fp32 [B]."""
    keep = counted_tokens(batch)
    record = record_of(model)
    assert record is not None, "it was loaded from a folder of a swapped model"
    worst = torch.zeros(len(keep))

    def see(path: str, x: torch.Tensor, out: torch.Tensor) -> None:
        ratio = in_medians(x, keep).nan_to_num(float("inf"), float("inf")).masked_fill(~keep, 0.0)
        worst.copy_(torch.maximum(worst, ratio.amax(1)))

    with watched(model, record.specs, see):
        run(model, batch)
    return worst


def main() -> None:
    a, texts = arguments(__doc__ or "")
    base, tokenizer, model = load_base(a.base), load_tokenizer(a.base), unnorm.load(a.model)
    batches = {name: held_out(settings, tokenizer, a.tokens) for name, settings in read(base, texts).items()}
    generator = torch.Generator().manual_seed(0)
    batches["arbitrary tokens"] = {
        "input_ids": torch.randint(base.config.vocab_size, (ROWS, LENGTH), generator=generator)
    }
    folded = copy.deepcopy(model)
    report = unnorm.optimize_(folded, head=True)
    away = sum(site.done == "folded away" for site in report.sites)
    norms = sum(isinstance(module, IdentityNorm) for module in folded.modules())
    print(machine_line(), flush=True)
    print(
        f"{away} of {len(report.sites)} norms are folded away, {norms} of them identities without parameters; the "
        f"logits of a few tokens then differ by {report.difference:.1e} of their size\n"
    )
    print("| held-out text | tokens | rows | run away | largest token | KL | KL of the other rows | KL, folded |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    for name, batch in batches.items():
        worst = largest(model, batch)
        calm = worst <= RUN_AWAY
        whole, other = distance(model, base, [batch]), distance(folded, base, [batch])
        rest = f"{distance(model, base, [{k: v[calm] for k, v in batch.items()}]).kl:.3f}" if calm.any() else "none"
        print(
            f"| {name} | {whole.tokens:,} | {len(worst)} | {int((~calm).sum())} | {float(worst.max()):.1f} | "
            f"{whole.kl:.3f} | {rest} | {other.kl:.3f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
