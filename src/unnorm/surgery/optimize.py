"""Make a model faster without changing what it computes: fold into the weights whatever of its norms is linear, and let
residual adds and norms be one kernel.

For inference: γ and β are gone from the norms afterwards, so they do not train by themselves any more. A norm whose
output anything but plain linear layers reads keeps what it has; so does the final norm, whose output is the last of the
hidden states, unless it is asked for.
"""

import time
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from unnorm.foundation.errors import ModelError
from unnorm.norms.spec import Norm
from unnorm.surgery.compiled_decoding import check_compilable, compile_decoding_
from unnorm.surgery.data_flow import dummy_inputs
from unnorm.surgery.fold import as_logistic, bare_norm, fold_into_, linear_part, why_not
from unnorm.surgery.fused_blocks import fuse_blocks_
from unnorm.surgery.linears import shared_weights
from unnorm.surgery.passes import in_eval
from unnorm.surgery.reads import Reads, reads_of
from unnorm.surgery.sites import Site, find_sites
from unnorm.surgery.swap import record_of, settle_

_MARK = "_unnorm_optimized"
_COSTLY = "β would make biases in its readers, which have none, and on a CPU these take longer than β at the norm"


@dataclass(frozen=True)
class SiteChange:
    """What was done at one site. done: `folded` (γ, β are in the readers), `folded away` (all of it is) or `left`."""

    path: str
    done: str
    readers: tuple[str, ...] = ()
    new_biases: tuple[str, ...] = ()
    """Readers that had no bias and got one, because β is not 0."""
    reason: str = ""
    """Why it was left."""


@dataclass(frozen=True)
class OptimizeReport:
    """Sites in execution order. fused_blocks: paths of the blocks whose residual adds and norms are one kernel.
    difference: of the logits on a few dummy tokens, ‖after − before‖ / ‖before‖."""

    sites: tuple[SiteChange, ...]
    fused_blocks: tuple[str, ...]
    difference: float
    seconds: float
    compiled_difference: float | None = None
    """Of the logits of a few decoded tokens, compiled against eager; None where decoding is not compiled."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def optimize_(model: Any, *, head: bool = False, compile: bool = False) -> OptimizeReport:
    """Fold γ into the weights and β into the biases of the layers that read each norm, in place; fixed scales wholly.
    On CUDA residual adds and the norms around them become one kernel, in blocks like Llama's, GPT-2's, GPT-NeoX's,
    Gemma's and OLMo's, and so do the norms of queries and keys in attentions like Qwen's, Gemma's and OLMo's.

    On a CPU a norm whose curve stays keeps γ and β where its readers have no biases: new ones would cost more.

    head: fold the final norm into the output layer, too. The last of the hidden states is then what comes into that
    norm, and an output layer that is tied to the embedding gets weights of its own, which take their memory.

    compile: let `model.generate` decode with a cache of fixed size and a compiled step, captured in CUDA graphs on a
    GPU; the first tokens of a new shape take the compiler's time. Its logits are compared with eager ones. To undo it,
    set `model.generation_config.cache_implementation` to None.

    Works on swapped models and on others, in eval mode. A swap can no longer be undone, and the model no longer be
    saved: save it first, and optimize what `load` gives. Raises `ModelError` for a model in train mode or with
    adapters, and one whose weights are on the meta device; with `compile`, for one that cannot be compiled, and
    `SettingsError` where there is no compiler.
    """
    started = time.perf_counter()
    _check(model)
    if compile:
        check_compilable(model)
    sites = find_sites(model)
    inputs = dummy_inputs(model, next(model.parameters()).device)
    before = _logits(model, inputs)
    undo: list[tuple[Any, str, Any]] = []
    tied = _untie_(model) if head else None
    reads, untouchable = reads_of(model, sites, inputs, hidden_states=not head)
    shared = shared_weights(model)
    changes = [_optimize_site(model, site, reads[site.path], untouchable, shared, undo) for site in sites]
    if tied is not None and torch.equal(model.get_output_embeddings().weight, tied):
        model.get_output_embeddings().weight = tied  # nothing was folded into it
    fused = fuse_blocks_(model) if before.is_cuda else {}
    try:
        difference = _difference(_logits(model, inputs), before)
        failed = f"the model then differs by {difference:.1g}" if not difference < _tolerance(before.dtype) else ""
    except Exception as error:  # the model's own code reads a parameter that its norm no longer has
        failed = f"the model does not run without them ({type(error).__name__})"
    if failed:
        _put_back(undo)
        if tied is not None:
            model.get_output_embeddings().weight = tied
        for unfuse in fused.values():
            unfuse()
        fused = {}
        changes = [SiteChange(c.path, "left", reason=c.reason or f"nothing was folded: {failed}") for c in changes]
        difference = 0.0
    elif fused or any(change.done != "left" for change in changes):
        _mark(model, changes)
    compiled = compile_decoding_(model, inputs["input_ids"], _tolerance(before.dtype)) if compile else None
    return OptimizeReport(tuple(changes), tuple(fused), difference, time.perf_counter() - started, compiled)


def _untie_(model: Any) -> nn.Parameter | None:
    """Give the output layer weights of its own, if it shares them; returns those that it had."""
    layer = model.get_output_embeddings()
    if layer is None or id(layer.weight) not in shared_weights(model):
        return None
    tied: nn.Parameter = layer.weight
    layer.weight = nn.Parameter(tied.detach().clone(), requires_grad=tied.requires_grad)
    return tied


def is_optimized(model: Any) -> bool:
    """Whether `optimize_` has changed weights of `model`."""
    return hasattr(model, _MARK)


def _check(model: Any) -> None:
    if model.training:
        raise ModelError("optimize_ is for inference: γ and β go into other weights. Call model.eval() first.")
    if hasattr(model, "peft_config") or any(hasattr(m, "lora_A") for m in model.modules()):
        raise ModelError("optimize_ was given a model with adapters. Merge them first: model.merge_and_unload().")
    if any(p.is_meta for p in model.parameters()):
        raise ModelError("optimize_ changes weights, and some of this model's are on the meta device. Load it whole.")


def _optimize_site(
    model: Any, site: Site, reads: Reads, untouchable: set[str], shared: set[int], undo: list[tuple[Any, str, Any]]
) -> SiteChange:
    module = model.get_submodule(site.path)
    part = linear_part(module, site)
    layers = [model.get_submodule(path) for path in reads.layers]
    reason = ""
    if part is None:
        reason = "it is not of the form γ t(x) + β"
    elif part.trivial:
        reason = "it has no γ and β"
    elif reads.others:
        reason = f"it is also read by {', '.join(reads.others)}"
    elif not layers:
        reason = "no linear layer reads it"
    elif any(id(p) in shared for p in module.parameters()):
        reason = "its parameters are shared with another module"
    elif taken := sorted(untouchable & set(reads.layers)):
        reason = f"{taken[0]} reads something else too, or its weight is used elsewhere"
    else:
        whys = [(path, why_not(layer, part, shared)) for path, layer in zip(reads.layers, layers, strict=True)]
        reason = next((f"{path} {why}" for path, why in whys if why), "")
    if reason or part is None:
        return SiteChange(site.path, "left", tuple(reads.layers), reason=reason)
    bare = bare_norm(module, site)
    written = as_logistic(module, layers)
    if written is not None and not any(why_not(layer, written[0], shared) for layer in layers):
        part, bare = written
    away = isinstance(bare, Norm) and bare.spec.norm == "identity"
    without_bias = [path for path, layer in zip(reads.layers, layers, strict=True) if layer.bias is None]
    if part.has_offset and without_bias and not away and not _biases_are_free(layers[0]):
        return SiteChange(site.path, "left", tuple(reads.layers), reason=_COSTLY)
    kept = [(layer, name, p) for layer in layers for name, p in layer._parameters.items()]
    old = [(layer, name, None if p is None else p.detach().clone()) for layer, name, p in kept]
    for layer in layers:
        fold_into_(layer, part)
    model.set_submodule(site.path, bare)
    undo += [*old, (model, site.path, module)]
    if not all(bool(p.isfinite().all()) for layer in layers for p in layer.parameters()):
        _put_back(undo[-len(old) - 1 :])
        del undo[-len(old) - 1 :]
        return SiteChange(site.path, "left", tuple(reads.layers), reason="the products overflow the weights' dtype")
    new = tuple(without_bias) if part.has_offset else ()
    return SiteChange(site.path, "folded away" if away else "folded", tuple(reads.layers), new)


def _biases_are_free(layer: Any) -> bool:
    """Whether a linear layer takes no longer with a bias than without: on CUDA, where it is part of the product."""
    return bool(layer.weight.is_cuda)


@torch.no_grad()
def _put_back(undo: list[tuple[Any, str, Any]]) -> None:
    """Parameters into their layers, norms at their paths."""
    for owner, name, value in undo:
        if isinstance(value, nn.Module):
            owner.set_submodule(name, value)
        elif value is None:
            owner._parameters[name] = None
        else:
            owner._parameters[name].copy_(value)


def _mark(model: Any, changes: list[SiteChange]) -> None:
    object.__setattr__(model, _MARK, True)
    record = record_of(model)
    if record is None:
        return
    for change in changes:
        if change.done != "left" and change.path in record.specs:
            record.specs[change.path] = model.get_submodule(change.path).spec
    settle_(model)


@torch.no_grad()
def _logits(model: Any, inputs: dict[str, Any]) -> torch.Tensor:
    with in_eval(model):
        out = model(**inputs)
    return out.logits if hasattr(out, "logits") else out[0]  # type: ignore[no-any-return]


def _difference(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found.double() - wanted.double()).norm() / wanted.double().norm().clamp_min(1e-30))


def _tolerance(dtype: torch.dtype) -> float:
    """Of the logits, relative: beyond it something else is wrong than rounding. Readers are known from watching; this
    is for what cannot be watched."""
    return 1e-3 if dtype in (torch.float64, torch.float32) else 0.2
