"""`unnorm demo`: the whole story, offline."""

from pathlib import Path
from typing import Annotated, Any

import typer

from unnorm.cli.output import JsonOption, emit_json, emit_table, say

EXAMPLE = "Example: [bold]unnorm demo[/bold]"


def demo(
    out: Annotated[Path, typer.Option(help="Folder for the runs. An interrupted demo in it is resumed.")] = Path(
        "unnorm-demo"
    ),
    json: JsonOption = False,
) -> None:
    """The whole story, offline: a tiny model made on the spot, swapped bare and calibrated, fine-tuned, compared."""
    from unnorm.demo.story import tell

    story = tell(out, say)
    if json:
        emit_json(story)
        return
    original = next(result for result in story["results"] if result["arm"] == "original")
    emit_table(
        "held-out loss in nats per token (frozen: LoRA only; a tiny stand-in, not a claim about real models)",
        ["arm", "before training", "after", "gap to original", "token accuracy"],
        [_row(result, original) for result in story["results"]],
    )
    _show_completions(story["completions"])
    say(f"everything is in {out}/; the second time it is read from there")


def _row(result: dict[str, Any], original: dict[str, Any]) -> list[str]:
    gap = "" if result is original else f"{result['eval_loss'] / original['eval_loss'] - 1:+.1%}"
    return [
        result["arm"],
        f"{result['start_eval_loss']:.3f}",
        f"{result['eval_loss']:.3f}",
        gap,
        f"{result['eval_token_accuracy']:.1%}",
    ]


def _show_completions(completions: list[dict[str, str]]) -> None:
    from unnorm.foundation.terminal import shorten

    arms = [key for key in completions[0] if key not in ("instruction", "input")]
    rows = []
    for item in completions:
        asked = item["instruction"] + (f" [{item['input']}]" if item["input"] else "")
        rows.append([shorten(asked, 160), *(shorten(item[arm], 120) for arm in arms)])
    emit_table("completions, greedy", ["prompt", *arms], rows, align_right_from=99)
