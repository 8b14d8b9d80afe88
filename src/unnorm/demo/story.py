"""The demo: a base made on the spot, three arms fine-tuned on a corpus that it has not seen, a table, completions."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from unnorm.data.conversation import Message
from unnorm.data.prepare import DataSettings
from unnorm.data.templates import prompt_text
from unnorm.demo.base import MAX_LENGTH, TEMPLATE, demo_base
from unnorm.demo.grammar import DEMO_PROMPTS, generate
from unnorm.evaluation.completions import complete
from unnorm.foundation import atomic
from unnorm.foundation.cache import cache_folder
from unnorm.foundation.hashing import hash_json
from unnorm.study.arms import arm_from
from unnorm.study.cell import CellSettings, run_cell
from unnorm.surgery.artefact import load
from unnorm.surgery.base import load_tokenizer
from unnorm.tuning.settings import TrainingSettings

ARMS = ("original", "dyt-bare", "dyt")
_ROWS = 6_000
_TRAINING = TrainingSettings(tokens=150_000, batch_tokens=512, learning_rate=3e-3)


def tell(out: Path, say: Callable[[str], None], *, quiet: bool = False) -> dict[str, Any]:
    """Run the demo in the folder `out`, or go on with it. Returns {results, completions, base}.

    say: called with a line for people at each stage. A run that finished before is not repeated.
    """
    say("1/3  a base: a GPT-NeoX of a few million parameters, pretrained here on a generated corpus (cached)")
    base = demo_base(quiet=quiet)
    data = _data_file()
    results = []
    say("2/3  three arms, each fine-tuned with LoRA on instructions that the base has not seen")
    for arm in ARMS:
        say(f"     {arm}")
        settings = CellSettings(
            model=str(base),
            arm=arm_from(arm),
            strategy="frozen",
            data=DataSettings(source=str(data), template=TEMPLATE, max_length=MAX_LENGTH),
            training=_TRAINING,
            evaluation_tokens=30_000,
            evaluate_every_tokens=_TRAINING.tokens,
            checkpoint_every_tokens=_TRAINING.tokens // 3,
        )
        results.append(run_cell(settings, out / arm, quiet=quiet, say=lambda text: say(f"       {text}")))
    say("3/3  completions")
    completions = out / "completions.json"
    key = hash_json([result["cell"] for result in results])
    stored = atomic.read_json(completions) if completions.is_file() else {}
    if stored.get("cells") != key:
        stored = {"cells": key, "completions": _complete(out)}
        atomic.write_json(completions, stored)
    return {"base": str(base), "results": results, "completions": stored["completions"]}


def _data_file() -> Path:
    rows = generate(_ROWS, seed=1, part="finetune")
    path = cache_folder() / f"demo-finetune-{hash_json(rows)}.json"
    if not path.is_file():
        atomic.write_json(path, rows)
    return path


def _complete(out: Path) -> list[dict[str, Any]]:
    prompts = [prompt_text(Message("user", instruction, given), TEMPLATE) for instruction, given in DEMO_PROMPTS]
    answers = {
        arm: complete(load(out / arm / "model"), load_tokenizer(str(out / arm / "model")), prompts) for arm in ARMS
    }
    return [
        {"instruction": instruction, "input": given, **{arm: answers[arm][number] for arm in ARMS}}
        for number, (instruction, given) in enumerate(DEMO_PROMPTS)
    ]
