"""The demo's base: a small GPT-NeoX, pretrained on the spot on the generated corpus, and kept in the cache."""

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from unnorm.data.encode import encode
from unnorm.data.packing import collate_packed, pack
from unnorm.data.sources import conversations_of
from unnorm.demo.grammar import generate
from unnorm.foundation import atomic, seeds
from unnorm.foundation.cache import cache_folder
from unnorm.foundation.hashing import hash_json
from unnorm.foundation.precision import choose
from unnorm.foundation.progress import Bar
from unnorm.metrics.token_sums import token_sums
from unnorm.surgery.base import bars_on_a_terminal_only
from unnorm.tuning.parameter_groups import parameter_groups

TEMPLATE = "alpaca-short"
MAX_LENGTH = 128
_EOS = "<|endoftext|>"


@dataclass(frozen=True)
class BaseRecipe:
    """How the base is made. Its hash, with the corpus's, names the cached folder."""

    rows: int = 16_000
    finetune_rows: int = 4_000
    vocabulary: int = 1000
    hidden_size: int = 160
    layers: int = 4
    heads: int = 4
    rotary_share: float = 1.0
    initializer_range: float = 0.08
    rows_a_step: int = 4
    steps: int = 640
    learning_rate: float = 2e-3
    warmup: float = 0.05
    weight_decay: float = 0.1
    seed: int = 0


def demo_base(recipe: BaseRecipe | None = None, *, quiet: bool = False) -> Path:
    """The folder of the base, made now if it is not in the cache."""
    recipe = recipe or BaseRecipe()
    rows = generate(recipe.rows, recipe.seed) + generate(recipe.finetune_rows, recipe.seed, "finetune")
    name = f"demo-base-{hash_json([asdict(recipe), rows])}"
    folder = cache_folder() / name
    atomic.restore_folder(folder)
    if not folder.is_dir():
        tokenizer = _tokenizer(rows, recipe.vocabulary)
        model = _pretrain(rows, tokenizer, recipe, quiet)
        bars_on_a_terminal_only()
        with atomic.folder(folder) as fresh:
            model.save_pretrained(str(fresh))
            tokenizer.save_pretrained(str(fresh))
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


def _pretrain(rows: Sequence[dict[str, str]], tokenizer: Any, recipe: BaseRecipe, quiet: bool) -> Any:
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, get_cosine_schedule_with_warmup

    seeds.seed_everything(recipe.seed)
    model = GPTNeoXForCausalLM(
        GPTNeoXConfig(
            vocab_size=len(tokenizer),
            hidden_size=recipe.hidden_size,
            num_hidden_layers=recipe.layers,
            num_attention_heads=recipe.heads,
            intermediate_size=4 * recipe.hidden_size,
            max_position_embeddings=MAX_LENGTH,
            rope_parameters={
                "rope_type": "default",
                "rope_theta": 10_000.0,
                "partial_rotary_factor": recipe.rotary_share,
            },
            initializer_range=recipe.initializer_range,
            eos_token_id=tokenizer.eos_token_id,
            bos_token_id=tokenizer.eos_token_id,
            hidden_dropout=0.0,
            attention_dropout=0.0,
        )
    )
    device = torch.accelerator.current_accelerator() or torch.device("cpu")
    model.to(device).train()  # type: ignore[arg-type]
    conversations = conversations_of(rows, "the demo's corpus").conversations
    encoded = encode(conversations, tokenizer, template=TEMPLATE, max_length=MAX_LENGTH, quiet=True).rows
    packed = pack(encoded, MAX_LENGTH).rows
    generator = np.random.Generator(np.random.PCG64(recipe.seed))
    groups = parameter_groups(model, recipe.weight_decay)
    optimizer = torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=(0.9, 0.95))
    schedule = get_cosine_schedule_with_warmup(optimizer, int(recipe.warmup * recipe.steps), recipe.steps)
    half = choose("auto", device).name == "bf16"
    order: list[int] = []
    with Bar("pretraining the demo's base", recipe.steps, quiet=quiet) as bar:
        for _ in range(recipe.steps):
            if len(order) < recipe.rows_a_step:
                order = generator.permutation(len(packed)).tolist()
            taken, order = order[: recipe.rows_a_step], order[recipe.rows_a_step :]
            batch = collate_packed([packed[i] for i in taken], MAX_LENGTH, tokenizer.pad_token_id)
            batch = {key: tensor.to(device) for key, tensor in batch.items()}
            with torch.autocast(device.type, torch.bfloat16, enabled=half):
                sums = token_sums(model, model.get_output_embeddings(), batch)
            loss = sums.nats / sums.tokens
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            bar.advance(1, f"loss {float(loss.detach()):.3f}")
    return model.cpu().eval()
