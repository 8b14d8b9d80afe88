"""What a model of fixed scales does, text by text, and what is left of its norms once they are folded away.

    python benchmarks/linear_model.py BASE MODEL --data alpaca=alpaca_data.json --data novels=novels.jsonl

One row a text, of tokens that are held out of every training on it; the last one is of arbitrary tokens. A row of a
text has run away if one of its tokens comes into a norm at over eight times the median token's size there; where
nothing is left of it (not finite, or worse than a guess), it is broken. The KLs leave broken rows out.
"""

import copy
from typing import Any

import torch

import unnorm
from gap_by_text import arguments, held_out, read
from machine import machine_line
from unnorm.foundation.errors import NonFiniteError
from unnorm.metrics.batches import counted_tokens
from unnorm.norms.identity import IdentityNorm
from unnorm.surgery.base import load_base, load_tokenizer
from unnorm.surgery.passes import run
from unnorm.surgery.swap import record_of
from unnorm.tuning.distance import distance
from unnorm.tuning.stream_sizes import RUN_AWAY, StreamSizes

LENGTH = 256
"""Of a row of arbitrary tokens."""
AT_ONCE = 8
"""Rows."""


def pieces(batch: dict[str, torch.Tensor]) -> list[dict[str, torch.Tensor]]:
    """A batch in some that are run at once."""
    starts = range(0, len(batch["input_ids"]), AT_ONCE)
    return [{name: tensor[at : at + AT_ONCE] for name, tensor in batch.items()} for at in starts]


def measured(model: Any, base: Any, batches: list[dict[str, torch.Tensor]]) -> tuple[str, int]:
    """The KL over rows that are not broken, as the table shows it, and how many are."""
    try:
        found = distance(model, base, batches, broken_apart=True)
    except NonFiniteError:
        return "none", sum(len(batch["input_ids"]) for batch in batches)
    return f"{found.kl:.3f}", found.broken


def main() -> None:
    a, texts = arguments(__doc__ or "")
    base, tokenizer, model = load_base(a.base), load_tokenizer(a.base), unnorm.load(a.model)
    batches = {name: held_out(settings, tokenizer, a.tokens) for name, settings in read(base, texts).items()}
    generator = torch.Generator().manual_seed(0)
    batches["arbitrary tokens"] = {
        "input_ids": torch.randint(base.config.vocab_size, (max(1, a.tokens // LENGTH), LENGTH), generator=generator)
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
    print("| held-out text | tokens | rows | run away | broken | largest token | KL | KL, folded | broken, folded |")
    print("|---|---|---|---|---|---|---|---|---|", flush=True)
    record = record_of(model)
    assert record is not None, "it was loaded from a folder of a swapped model"
    sizes = StreamSizes([model.get_submodule(path) for path in record.specs])
    for name, whole in batches.items():
        some = pieces(whole)
        worst = torch.cat([sizes.largest(batch, lambda rows: run(model, rows)) for batch in some])
        (kl, broken), (other, others) = (measured(each, base, some) for each in (model, folded))
        print(
            f"| {name} | {int(counted_tokens(whole).sum()):,} | {len(worst)} | {int((worst > RUN_AWAY).sum())} | "
            f"{broken} | {float(worst.max()):.1f} | {kl} | {other} | {others} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
