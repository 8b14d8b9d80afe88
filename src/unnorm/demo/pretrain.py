"""Pretraining of the demo's base: a plain loop that stops when asked, and goes on bit for bit where it stopped."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from unnorm.data.encode import encode
from unnorm.data.packing import collate_packed, pack
from unnorm.data.sources import conversations_of
from unnorm.demo.recipe import BaseRecipe
from unnorm.foundation import atomic, seeds, threads
from unnorm.foundation.errors import Interrupted
from unnorm.foundation.precision import choose
from unnorm.foundation.processes import stop_asked
from unnorm.foundation.progress import Bar
from unnorm.metrics.token_sums import token_sums
from unnorm.tuning import checkpoint
from unnorm.tuning.parameter_groups import parameter_groups
from unnorm.tuning.threads import threads_for

TEMPLATE = "alpaca-short"
MAX_LENGTH = 128
_STEPS_A_CHECKPOINT = 40


def pretrain(
    rows: Sequence[dict[str, str]], tokenizer: Any, recipe: BaseRecipe, folder: Path, *, quiet: bool = False
) -> Any:
    """The pretrained base, in eval mode. folder: for checkpoints, which are gone on with if there are any.

    Raises `Interrupted` when asked to stop; what was reached is in `folder` then.
    """
    from transformers import TrainerState, get_cosine_schedule_with_warmup

    seeds.seed_everything(recipe.seed)
    model = _model(tokenizer, recipe)
    device = torch.accelerator.current_accelerator() or torch.device("cpu")
    model.to(device)
    conversations = conversations_of(rows, "the demo's corpus").conversations
    encoded = encode(conversations, tokenizer, template=TEMPLATE, max_length=MAX_LENGTH, quiet=True).rows
    packed = pack(encoded, MAX_LENGTH).rows
    order = _order(len(packed), recipe)
    optimizer = torch.optim.AdamW(
        parameter_groups(model, recipe.weight_decay), lr=recipe.learning_rate, betas=(0.9, 0.95)
    )
    schedule = get_cosine_schedule_with_warmup(optimizer, int(recipe.warmup * recipe.steps), recipe.steps)
    parameters = dict(model.named_parameters())
    precision = choose("auto", device).name
    _go_on(folder, precision, model)
    last = checkpoint.latest(folder)
    if last is not None:
        checkpoint.load_weights(last, parameters)
        checkpoint.load_optimizer(last, parameters, optimizer, schedule)
    begun = checkpoint.step_of(last)
    model.train()
    with Bar("pretraining the demo's base", recipe.steps, quiet=quiet) as bar, stop_asked() as stopping:
        bar.advance(begun)
        for step in range(begun + 1, recipe.steps + 1):
            batch = collate_packed([packed[i] for i in order[step - 1]], MAX_LENGTH, tokenizer.pad_token_id)
            batch = {key: tensor.to(device) for key, tensor in batch.items()}
            with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
                sums = token_sums(model, model.get_output_embeddings(), batch)
            loss = sums.nats / sums.tokens
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            bar.advance(1, f"loss {float(loss.detach()):.3f}")
            if step % _STEPS_A_CHECKPOINT == 0 or stopping():
                path = checkpoint.path_of(folder, step)
                state = TrainerState(global_step=step)
                content = checkpoint.content_of(parameters, optimizer, keep=True)
                checkpoint.write(path, precision, content, schedule, None, [seeds.capture()], state)
            if stopping():
                raise Interrupted
    return model.cpu().eval()


def _go_on(folder: Path, precision: str, model: Any) -> None:
    """Compute on the threads that the work in `folder` began with, or on those that pay; what was begun in another
    precision is let go."""
    path = folder / "begun.json"
    begun = atomic.read_json(path) if path.is_file() else {}
    if begun.get("precision") != precision:
        shutil.rmtree(folder, ignore_errors=True)
        begun = {"precision": precision, "threads": threads_for(model).number}
        atomic.write_json(path, begun)
    threads.use(begun["threads"])


def _model(tokenizer: Any, recipe: BaseRecipe) -> Any:
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    config = GPTNeoXConfig(
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
    return GPTNeoXForCausalLM(config)


def _order(count: int, recipe: BaseRecipe) -> list[list[int]]:
    """The rows of each step: all in an order, then all in another one. What an order leaves, too few for a step, is
    skipped."""
    generator = np.random.Generator(np.random.PCG64(recipe.seed))
    size = recipe.rows_a_step
    steps: list[list[int]] = []
    while len(steps) < recipe.steps:
        order = generator.permutation(count).tolist()
        steps += [order[first : first + size] for first in range(0, count - size + 1, size)]
    return steps[: recipe.steps]
