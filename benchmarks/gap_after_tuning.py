"""What fine-tuning does to a recovered model's gap, beside its KL to the original: results/real/two-cores.md.

    python benchmarks/gap_after_tuning.py STUDY.yaml --ledger LEDGER

For each arm that is recovered first, and each strategy whose cells are done: before fine-tuning against the base, and
afterwards against the original's arm under the same strategy. All is of the answers of the study's held-out rows.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

import unnorm
from machine import machine_line
from unnorm.metrics.batches import inputs_of
from unnorm.metrics.token_sums import IGNORED
from unnorm.study.after.stage import load_model
from unnorm.study.plan import pairs_of, plan_study
from unnorm.study.recovered_start import MODEL
from unnorm.study.spec import read_spec
from unnorm.study.workbench import Workbench

REFERENCE = "original"


class Found(NamedTuple):
    """Nats a token of answers: the original's loss and the model's, KL(original ‖ model); tokens: how many."""

    original: float
    model: float
    kl: float
    tokens: int


@torch.no_grad()
def on_answers(model: Any, original: Any, batches: Sequence[Mapping[str, torch.Tensor]]) -> Found:
    """Both models on batches with `labels` [B, T], `IGNORED` at tokens that are none of an answer."""
    sums, tokens = torch.zeros(3, dtype=torch.float64), 0
    for batch in batches:
        inputs, wanted = inputs_of(batch), batch["labels"][:, 1:]
        counted = wanted != IGNORED
        p, q = (
            each(**inputs, use_cache=False).logits[:, :-1][counted].float().log_softmax(-1)
            for each in (original.eval(), model.eval())
        )
        answers = wanted[counted][:, None]
        kl = (p.exp() * (p - q)).sum().double()
        sums += torch.stack([-p.gather(1, answers).double().sum(), -q.gather(1, answers).double().sum(), kl])
        tokens += len(answers)
    original_loss, loss, kl = (sums / tokens).tolist()
    return Found(original_loss, loss, kl, tokens)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path)
    parser.add_argument("--ledger", type=Path, required=True)
    a = parser.parse_args()
    bench = Workbench(quiet=True)
    plan = plan_study(read_spec(a.study)[0], a.ledger, bench)
    print(machine_line(), flush=True)
    print("| arm | strategy | answers' tokens | gap before, nats | KL before | gap after, nats | KL after |")
    print("|---|---|---|---|---|---|---|", flush=True)
    for pair in pairs_of(plan.cells, REFERENCE):
        cells = (pair.arm, pair.against)
        if pair.arm.start is None or not all((cell.folder / "result.json").is_file() for cell in cells):
            continue
        settings = pair.arm.settings
        rows = bench.validation_rows(settings.data, settings.model, settings.evaluation_tokens)
        batches = list(rows.batches(4))
        start = unnorm.load(pair.arm.start.folder / MODEL)
        before = on_answers(start, bench.base(settings.model).model, batches)
        after = on_answers(load_model(pair.arm, merged=True), load_model(pair.against, merged=True), batches)
        parts = " | ".join(f"{f.model - f.original:+.3f} | {f.kl:.3f}" for f in (before, after))
        print(f"| {settings.arm.id} | {settings.strategy} | {before.tokens:,} | {parts} |", flush=True)


if __name__ == "__main__":
    main()
