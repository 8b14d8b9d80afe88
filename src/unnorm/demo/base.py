"""The demo's base: a small GPT-NeoX, pretrained on the spot on the generated corpus, and kept in the cache."""

import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from unnorm.demo.grammar import generate
from unnorm.demo.pretrain import pretrain
from unnorm.demo.recipe import BaseRecipe
from unnorm.foundation import atomic
from unnorm.foundation.cache import cache_folder
from unnorm.foundation.hashing import hash_json
from unnorm.foundation.quiet import without_bars

_EOS = "<|endoftext|>"


def demo_base(recipe: BaseRecipe | None = None, *, quiet: bool = False) -> Path:
    """The folder of the base, made now if it is not in the cache."""
    recipe = recipe or BaseRecipe()
    rows = generate(recipe.rows, recipe.seed) + generate(recipe.finetune_rows, recipe.seed, "finetune")
    name = f"demo-base-{hash_json([asdict(recipe), rows])}"
    folder = cache_folder() / name
    atomic.restore_folder(folder)
    if not folder.is_dir():
        tokenizer = _tokenizer(rows, recipe.vocabulary)
        unfinished = cache_folder() / f"{name}.unfinished"
        model = pretrain(rows, tokenizer, recipe, unfinished, quiet=quiet)
        with without_bars(), atomic.folder(folder) as fresh:
            model.save_pretrained(str(fresh))
            tokenizer.save_pretrained(str(fresh))
        shutil.rmtree(unfinished, ignore_errors=True)
    return folder


def _tokenizer(rows: Sequence[dict[str, str]], vocabulary: int) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[_EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = (f"{r['instruction']}\n{r['input']}\n{r['output']}" for r in rows)
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_tokens(
        ["### Instruction:\n", "\n\n### Input:\n", "\n\n### Response:\n"]
    )  # one token each: short rows
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=_EOS, pad_token=_EOS)
