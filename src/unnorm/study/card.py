"""The numbers that a model card may quote: those of the cell that made the model, read from its folder."""

from pathlib import Path
from typing import Any

from unnorm.foundation import atomic
from unnorm.study.ledger import result_of, state_of
from unnorm.study.start_words import read_recovery


def card_numbers(model: Path) -> dict[str, Any]:
    """Name -> value for the model in the folder `model`, if it is CELL/model of a cell that is done; else nothing.

    Where the same ledger holds the cell that differs in its arm alone, and is `original`, its loss stands beside.
    """
    cell = model.resolve().parent
    if model.resolve().name != "model" or state_of(cell)[0] != "done":
        return {}
    result = result_of(cell)
    numbers = {
        "fine-tuned on": f"{result['dataset']}, {result['train_tokens']:,} tokens, strategy {result['strategy']}",
        "arm, seed": f"{result['arm']}, {result['seed']}",
        "held-out loss before training (nats a token)": result["start_eval_loss"],
        "held-out loss (nats a token)": result["eval_loss"],
        "held-out token accuracy": result["eval_token_accuracy"],
        "held-out tokens": result["eval_tokens"],
    }
    if result.get("start_tokens"):
        by = (read_recovery(cell) or {}).get("objective")
        how = "trained by cross-entropy" if by == "ce" else "distilled from the original"
        numbers[f"{how} before that (tokens)"] = f"{result['start_tokens']:,}"
    original = _original_of(cell)
    if original is not None and result["arm"] != "original":
        numbers["held-out loss of the original, fine-tuned alike"] = original["eval_loss"]
        numbers["gap to the original"] = f"{result['eval_loss'] / original['eval_loss'] - 1:+.2%} (one seed)"
    return numbers


def _original_of(cell: Path) -> dict[str, Any] | None:
    mine = _without_arm(cell)
    for other in sorted(cell.parent.iterdir()):
        if other == cell or state_of(other)[0] != "done" or result_of(other)["arm"] != "original":
            continue
        if _without_arm(other) == mine:
            return result_of(other)
    return None


def _without_arm(cell: Path) -> dict[str, Any]:
    settings = atomic.read_json(cell / "cell.json")["settings"]
    return {key: value for key, value in settings.items() if key not in ("arm", "start")}
