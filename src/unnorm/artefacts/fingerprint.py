"""The fingerprint of a model: some of its fp32 logits on fixed token ids. It tells a right load from a wrong one."""

import copy
import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import nn

from unnorm.surgery.base import context_length, under_adapters
from unnorm.surgery.computed_buffers import HALF

_TOKENS = 64
_COLUMNS = 16
_RELATIVE_TOLERANCE = 1e-3
_ROUNDING = 1e-6
"""Some units in the last place of fp32: what another number of threads or another device does to a sum."""
_MARGIN = 10


class Fingerprint(BaseModel):
    """fp32 logits [T, 16] at T ≤ 64 fixed token ids and 16 fixed vocabulary columns, and how far they may differ."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    logits: list[list[float]] = Field(max_length=_TOKENS)
    tolerance: float = Field(gt=0, lt=1e6, description="largest absolute difference that still counts as equal")

    def difference(self, other: "Fingerprint") -> float:
        """Largest absolute difference to another one; infinite where the shapes differ."""
        mine, theirs = torch.tensor(self.logits), torch.tensor(other.logits)
        return float((mine - theirs).abs().max()) if mine.shape == theirs.shape else float("inf")

    @property
    def is_finite(self) -> bool:
        """Whether every logit is a number."""
        return all(math.isfinite(value) for row in self.logits for value in row)

    def holds_for(self, other: "Fingerprint") -> bool:
        """Whether the two are equal within the tolerance. A NaN is equal to nothing."""
        return self.difference(other) <= self.tolerance


@torch.no_grad()
def fingerprint(model: Any, adapter: str | None = None, *, to_save: bool = False) -> Fingerprint:
    """Compute it, in eval mode and fp32, on the device that holds the model.

    adapter: the name of the adapter that a PeftModel is to wear; None: without adapters. A model held in bf16 or fp16
    is widened a block at a time, so that this takes little memory beside the model's own. The tolerance is 1e-3 of the
    logits' root mean square: fp32 on another device or library differs by some 1e-5 of it, a wrong norm by all of it.
    to_save: it is larger where embeddings that are rounded otherwise change the logits by more than a tenth of that, as
    in a deep model that a bare swap has ruined: what any machine computes of it is as good as another's.
    """
    inner = under_adapters(model)
    halves = any(p.dtype in HALF for p in inner.parameters())
    was_training = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with _worn(model, adapter):
            try:
                logits = _logits(model, inner, widen=halves)
            except RuntimeError:
                if not halves:
                    raise
                # Some part computes with weights of a part that it does not call: all at once, then.
                model, halves = copy.deepcopy(model).float(), False
                inner = under_adapters(model)
                logits = _logits(model, inner)
            moved = logits
            if to_save:
                with _otherwise_rounded(inner):
                    moved = _logits(model, inner, widen=halves)
    finally:
        for module, training in was_training:
            module.training = training
    tolerance = _RELATIVE_TOLERANCE * float(logits.square().mean().sqrt()) + 1e-6
    tolerance = max(tolerance, _MARGIN * float((moved - logits).abs().max()))
    return Fingerprint(
        logits=[[round(v, 6) for v in row] for row in logits.tolist()],
        tolerance=tolerance if tolerance < 1e6 else 1e-6,
    )


def _logits(model: Any, inner: Any, *, widen: bool = False) -> torch.Tensor:
    config = inner.config.get_text_config()
    length = min(_TOKENS, context_length(inner) or _TOKENS)
    device = inner.get_input_embeddings().weight.device
    if device.type == "meta":  # offloaded: its hooks bring the weights to where they compute
        device = torch.device("cpu")
    tokens = (torch.arange(length, device=device) * 7919 + 13) % config.vocab_size
    with ExitStack() as stack:
        stack.enter_context(torch.autocast(device.type, enabled=False))
        if widen:
            stack.enter_context(_widened(inner))
        chosen = stack.enter_context(_some_columns(inner))
        logits: torch.Tensor = model(input_ids=tokens[None], use_cache=False).logits[0]
    if not chosen:
        logits = logits[:, _columns(inner).to(logits.device)]
    return logits.float().cpu()


@contextmanager
def _otherwise_rounded(inner: Any) -> Iterator[None]:
    """While open, every other channel of the embeddings is larger by a rounding error."""

    def nudge(module: nn.Module, args: Any, out: torch.Tensor) -> torch.Tensor:
        out = out.float() if out.dtype in HALF else out.clone()
        out[..., ::2] *= 1 + _ROUNDING
        return out

    handle = inner.get_input_embeddings().register_forward_hook(nudge)
    try:
        yield
    finally:
        handle.remove()


def _plain_head(inner: Any) -> nn.Linear | None:
    """The output layer, where it is a plain linear one, and no module around it adds a bias afterwards (as ESM's)."""
    head = inner.get_output_embeddings() if hasattr(inner, "get_output_embeddings") else None
    if type(head) is not nn.Linear:
        return None
    around = next((module for module in inner.modules() if any(child is head for child in module.children())), None)
    added = getattr(around, "bias", None)
    return head if added is None or added is head.bias else None


def _columns(inner: Any) -> torch.Tensor:
    columns: torch.Tensor = (torch.arange(_COLUMNS) * 104_729 + 7) % inner.config.get_text_config().vocab_size
    return columns


@contextmanager
def _worn(model: Any, adapter: str | None) -> Iterator[None]:
    """While open, a PeftModel wears `adapter`, or none; which it wore, and what trains, is put back."""
    if not hasattr(model, "peft_config"):
        yield
        return
    active, together = model.active_adapter, list(model.active_adapters)
    trains = {p: p.requires_grad for p in model.parameters()}
    try:
        if adapter is None:
            with model.disable_adapter():
                yield
        else:
            model.set_adapter(adapter)
            yield
    finally:
        if adapter is not None:
            model.set_adapter(active)
            model.base_model.set_adapter(together)  # peft's own model can wear several at once
        for parameter, flag in trains.items():
            parameter.requires_grad_(flag)


@contextmanager
def _some_columns(inner: Any) -> Iterator[bool]:
    """Let the output layer compute the fingerprint's columns alone, in fp32, where it is a plain one; whether it is.

    The whole vocabulary in fp32 may not fit beside a model in bf16.
    """
    head = _plain_head(inner)
    if head is None or head.weight.is_meta:
        yield False
        return
    columns = _columns(inner).to(head.weight.device)
    weight = head.weight[columns].float()
    bias = None if head.bias is None else head.bias[columns].float()
    own = vars(head).get("forward")  # where accelerate has put a hook around it

    def forward(x: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(x.to(weight.device, torch.float32), weight, bias)

    object.__setattr__(head, "forward", forward)
    try:
        yield True
    finally:
        object.__delattr__(head, "forward")
        if own is not None:
            object.__setattr__(head, "forward", own)


@contextmanager
def _widened(inner: Any) -> Iterator[None]:
    """Let a bf16 or fp16 model compute in fp32: each block is widened while it runs."""
    with ExitStack() as stack:
        for unit in _units(inner):
            stack.enter_context(_widened_embedding(unit) if type(unit) is nn.Embedding else _widened_unit(unit))
        yield


def _units(inner: Any) -> Iterator[nn.Module]:
    """The blocks (entries of the outermost module lists), and every other module that has parameters of its own."""
    head = _plain_head(inner)

    def walk(module: nn.Module) -> Iterator[nn.Module]:
        if module is head:
            return
        if isinstance(module, nn.ModuleList):
            yield from module.children()
            return
        if any(True for _ in module.parameters(recurse=False)):
            yield module
            return
        for child in module.children():
            yield from walk(child)

    return walk(inner)


@contextmanager
def _widened_unit(unit: nn.Module) -> Iterator[None]:
    narrow: dict[nn.Parameter | torch.Tensor, torch.Tensor] = {}

    def widen(module: nn.Module, *_: Any) -> None:
        for tensor in (*module.parameters(), *module.buffers()):
            if tensor.dtype in HALF and not tensor.is_meta:
                narrow[tensor] = tensor.data
                tensor.data = tensor.data.float()

    def narrow_again(*_: Any) -> None:
        for tensor, data in narrow.items():
            tensor.data = data
        narrow.clear()

    before = unit.register_forward_pre_hook(widen)
    after = unit.register_forward_hook(narrow_again, always_call=True)
    try:
        yield
    finally:
        before.remove()
        after.remove()
        narrow_again()


@contextmanager
def _widened_embedding(unit: nn.Module) -> Iterator[None]:
    """An embedding only looks rows up: it is enough to widen what it gives."""
    handle = unit.register_forward_hook(lambda module, args, out: out.float())
    try:
        yield
    finally:
        handle.remove()
