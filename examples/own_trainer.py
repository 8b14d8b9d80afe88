"""Swap the norms of a model and train it in transformers' own `Trainer`: nothing of unnorm is in the loop.

    python examples/own_trainer.py EleutherAI/pythia-14m some.txt out/

Change what you like between the swap and the save. At the end the folder holds a model that `unnorm.load` proves to be
this one, and that `unnorm package` turns into one for others.
"""

import sys
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainingArguments

import unnorm

LENGTH = 128
"""Tokens a row."""
FIT = 32
"""Rows that the new norms are fitted to."""


def main(base: str, text: str, out: str, steps: int = 100, rows_a_step: int = 8) -> None:
    tokenizer = AutoTokenizer.from_pretrained(base)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    rows = rows_of(Path(text).read_text(), tokenizer)
    held_out, learnt = rows[: len(rows) // 10 + 1], rows[len(rows) // 10 + 1 :]

    report = unnorm.swap_(model, unnorm.DyT(alpha="channel"), calibrate_on=learnt[:FIT])
    assert report.calibration is not None  # since there were rows to fit to
    print(f"swapped {len(report.sites)} norms; lowest R² {min(site.r2 for site in report.calibration.sites):.3f}")
    print(f"held-out loss before training: {loss(model, held_out):.4f} nats a token")

    arguments = TrainingArguments(
        output_dir=f"{out}-checkpoints",
        max_steps=steps,
        per_device_train_batch_size=rows_a_step,
        learning_rate=1e-4,
        warmup_steps=steps // 10,
        weight_decay=0.0,  # `Trainer` spares norms by class or name; where a site is called ln_1, α and γ would decay
        logging_steps=max(steps // 10, 1),
        save_strategy="no",
        report_to="none",
    )
    Trainer(model=model, args=arguments, train_dataset=[{"input_ids": row, "labels": row} for row in learnt]).train()

    print(f"held-out loss after training:  {loss(model, held_out):.4f} nats a token")
    unnorm.save(model, out, tokenizer)
    print(f"saved {out}; load it with unnorm.load({out!r})")


def rows_of(text: str, tokenizer: Any) -> torch.Tensor:
    """The text as rows of `LENGTH` tokens, [N, LENGTH]; what is left over at the end is dropped."""
    ids = torch.tensor(tokenizer(text)["input_ids"])
    count = len(ids) // LENGTH
    if count < 2:
        raise SystemExit(f"the text has {len(ids)} tokens; give at least {2 * LENGTH}.")
    return ids[: count * LENGTH].view(count, LENGTH)


def loss(model: Any, rows: torch.Tensor) -> float:
    """Nats a token on these rows."""
    device = next(model.parameters()).device
    batches = [{"input_ids": part.to(device), "labels": part.to(device)} for part in rows.split(8)]
    return float(unnorm.evaluate(model, batches).loss)


if __name__ == "__main__":
    if len(sys.argv) != 4:
        raise SystemExit(__doc__)
    main(sys.argv[1], sys.argv[2], sys.argv[3])
