"""What transformers' Trainer is told: all that it may decide is decided here; and autocast kept to training."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments

from unnorm.foundation import ranks
from unnorm.foundation.errors import SettingsError
from unnorm.tuning.device_rows import check_shares
from unnorm.tuning.settings import TrainingSettings

_SCHEDULES = {"cosine": "cosine", "linear": "linear", "constant": "constant_with_warmup"}


def training_arguments(
    settings: TrainingSettings,
    folder: Path,
    run: str,
    rows_per_step: int,
    rows_per_forward: int,
    seed: int,
    report_to: Sequence[str],
) -> TrainingArguments:
    """Those of a run, whose rows a step and a forward are over all devices. Raises `SettingsError` for what devices
    cannot share, and for a precision that there is not."""
    world = ranks.count()
    check_shares(rows_per_step)
    check_shares(rows_per_forward)
    if settings.precision == "fp16" and not torch.cuda.is_available():
        raise SettingsError("precision fp16 needs a GPU. Use bf16 or fp32.")
    if settings.precision == "fp16" and settings.sharding == "fsdp" and world > 1:
        raise SettingsError("precision fp16 scales gradients, which fsdp does not do here. Use bf16, fp32 or ddp.")
    arguments = TrainingArguments(
        output_dir=str(folder),
        run_name=run,
        per_device_train_batch_size=rows_per_forward // world,
        gradient_accumulation_steps=rows_per_step // rows_per_forward,
        num_train_epochs=1,
        learning_rate=settings.learning_rate,
        lr_scheduler_type=_SCHEDULES[settings.schedule],
        warmup_steps=settings.warmup,
        max_grad_norm=settings.max_grad_norm,
        bf16=settings.precision == "bf16",
        fp16=settings.precision == "fp16",
        use_cpu=not torch.accelerator.is_available(),
        seed=seed,
        logging_strategy="no",
        logging_nan_inf_filter=False,
        save_strategy="no",
        eval_strategy="no",
        report_to=list(report_to),
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
    )
    arguments._n_gpu = min(1, arguments.n_gpu)  # several GPUs mean several processes here, never DataParallel
    return arguments


@contextmanager
def plain_forward(model: Any) -> Iterator[None]:
    """While open, `model` runs its own forward, in the dtype of its weights."""
    patched = model.__dict__.pop("forward", None)
    try:
        yield
    finally:
        if patched is not None:
            model.__dict__["forward"] = patched


@contextmanager
def plain_forward_after(model: Any) -> Iterator[None]:
    """Once closed, `model` has its own forward back for good."""
    try:
        yield
    finally:
        model.__dict__.pop("forward", None)
        model.__dict__.pop("_original_forward", None)
