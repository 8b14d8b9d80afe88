"""What learns in a recovery, made ready before it and made plain again after it."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from unnorm.foundation.errors import ModelError
from unnorm.surgery.base import without_peft_notice
from unnorm.surgery.passes import in_eval
from unnorm.surgery.swap import SwapRecord
from unnorm.tuning.lora_scale import scale_by_weights_
from unnorm.tuning.pair import norm_paths
from unnorm.tuning.recover_settings import RecoverSettings
from unnorm.tuning.settings import Strategy
from unnorm.tuning.strategies import apply_strategy


def what_learns(model: nn.Module, record: SwapRecord, settings: RecoverSettings, seed: int) -> tuple[Any, int]:
    """Make of `model` what the trainer takes, in which just what `settings` says asks for a gradient, in fp32.

    Returns it (a PeftModel with LoRA, else `model`) and the number of parameters that learn. Raises `ModelError` if
    there are none. If that or anything else fails, LoRA is out of `model` again.
    """
    paths = norm_paths(model, record)
    if settings.train in ("all", "lora"):
        strategy: Strategy = "full" if settings.train == "all" else "selective"
        with_parameters = [path for path in paths if any(True for _ in model.get_submodule(path).parameters())]
        with _plain_on_failure(model):
            learner, trainable = apply_strategy(
                model,
                strategy,
                site_paths=with_parameters,
                lora=settings.lora,
                seed=seed,
            )
            if settings.train == "lora":
                scale_by_weights_(learner)
        return learner, trainable.trainable_parameters
    if settings.train == "corrected":
        if not record.corrected:
            raise ModelError(
                "recover_ was to train the corrected layers too, and none were: swap with correct='all' or 'readers', "
                "or train the norms alone."
            )
        paths += record.corrected
        for parameter in model.parameters():  # layers in fp32 do not take what comes from others in bf16
            parameter.data = parameter.data.float()
    model.requires_grad_(False)
    learning = [p for path in paths for p in model.get_submodule(path).parameters()]
    if not learning:
        raise ModelError("the norms at its sites have no parameters to learn. Train all weights, or LoRA.")
    for parameter in learning:
        parameter.requires_grad_(True)
        parameter.data = parameter.data.float()
    return model, sum(parameter.numel() for parameter in learning)


@contextmanager
def _plain_on_failure(model: nn.Module) -> Iterator[None]:
    """If it fails, every module of `model` has the children that it had before.

    peft's own `unload` needs what `get_peft_model` returns, and that may be what failed, with half of LoRA put in.
    """
    children = [(module, dict(module._modules)) for module in model.modules()]
    try:
        yield
    except BaseException:
        for module, before in children:
            module._modules.clear()
            module._modules.update(before)
        model.__dict__.pop("peft_config", None)  # by which a model is known for one with adapters
        raise


@torch.no_grad()
def settled_(model: nn.Module, learner: Any, start: Mapping[str, torch.Tensor]) -> None:
    """Make `model` plain again: LoRA merged into it, every parameter that is in `start` in the dtype it has there."""
    if learner is not model:
        with without_peft_notice():
            learner.merge_and_unload()
    for name, parameter in model.named_parameters():
        if name in start and parameter.dtype != start[name].dtype:
            parameter.data = parameter.data.to(start[name].dtype)
        parameter.grad = None


@contextmanager
def restored_flags(model: nn.Module) -> Iterator[None]:
    """Puts back which parameters ask for a gradient."""
    flags = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    try:
        yield
    finally:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(flags[name])


@contextmanager
def without_gradients(model: nn.Module) -> Iterator[None]:
    """While open, nothing in `model` asks for a gradient, and it is in eval mode."""
    with restored_flags(model), in_eval(model):
        model.requires_grad_(False)
        yield


@contextmanager
def without_dropout(model: nn.Module, norms: Sequence[nn.Module]) -> Iterator[None]:
    """While open, `model` runs in eval mode even where it is trained: a teacher without dropout is matched without it.

    norms: stay in training mode, which is how a monitor tells a training step.
    """

    watched = {id(norm) for norm in norms}
    rest = [module for module in model.modules() if id(module) not in watched]

    def calm(module: nn.Module, args: Any) -> None:
        for each in rest:  # not eval(): a module's own way to set an attribute takes long for hundreds of modules
            each.__dict__["training"] = False
        for norm in norms:
            norm.training = torch.is_grad_enabled()

    handle = model.register_forward_pre_hook(calm)
    try:
        yield
    finally:
        handle.remove()
        model.eval()
