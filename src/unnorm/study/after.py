"""Stages after training, each a file of the cell that is made again only if what shaped it has changed."""

from pathlib import Path

import orjson

from unnorm.artefacts.loading import load
from unnorm.data.conversation import Message
from unnorm.data.templates import template_of
from unnorm.evaluation.completions import complete
from unnorm.evaluation.prompts import read_prompts
from unnorm.foundation import atomic
from unnorm.foundation.hashing import hash_json, hash_tensors
from unnorm.study.cell import CellSettings
from unnorm.study.spec import Completions
from unnorm.study.view import COMPLETIONS
from unnorm.surgery.base import load_tokenizer


def complete_cell(settings: CellSettings, cell: str, folder: Path, wanted: Completions) -> bool:
    """Write the cell's completions.jsonl, unless it is there for these prompts. Returns whether it was made now.

    The model is the one that the cell saved, loaded as a user would load it.
    """
    prompts = read_prompts(wanted.prompts)
    key = hash_json([cell, [list(prompt) for prompt in prompts], wanted.max_new_tokens, settings.data.template])
    stage = folder / "completions.json"
    if stage.is_file() and atomic.read_json(stage).get("key") == key:
        return False
    base = None if settings.strategy == "full" else settings.model
    model = load(folder / "model", base=base)
    tokenizer = load_tokenizer(str(folder / "model"))
    template = template_of(settings.data.template, tokenizer)
    texts = [template.prompt([Message("user", p.instruction, p.input)]) for p in prompts]
    model_hash = hash_tensors(model.state_dict())
    answers = complete(model, tokenizer, texts, max_new_tokens=wanted.max_new_tokens)
    lines = [
        {
            "prompt_id": prompt.prompt_id,
            "category": prompt.category,
            "turn": 0,
            "prompt": prompt.instruction + (f"\n\n{prompt.input}" if prompt.input else ""),
            **answer._asdict(),
            "seed": settings.seed,
            "temperature": 0.0,
            "model_hash": model_hash,
        }
        for prompt, answer in zip(prompts, answers, strict=True)
    ]
    atomic.write_bytes(folder / COMPLETIONS, b"".join(orjson.dumps(line) + b"\n" for line in lines))
    atomic.write_json(stage, {"key": key})
    return True
