"""What makes a module a norm: its behaviour. A class name, or a base class of torch, only narrows the search.

A norm maps x [..., C], channel by channel, to a · x̂ + b, where x̂ is x scaled to a root mean square of 1 over the last
dimension alone (RMSNorm), or that after its mean is taken off (LayerNorm). So scaling x changes nothing, and for
LayerNorm neither does a shift. The probe runs a copy of the module in fp32 on the CPU with random parameters: what is
found holds for the function, not for the values that a checkpoint happens to have, and bf16 models and models on the
meta device are read like any other. Norms over anything but the last dimension (GroupNorm, BatchNorm, a norm a group
of channels) fail the probe.

Where a norm stands in a model, and whether it is called with a gate, is `data_flow`'s to say.
"""

import copy
import inspect
from dataclasses import dataclass

import torch
from torch import nn

from unnorm.norms.spec import Norm

_MOST_PARAMETERS = 2**20  # more than any norm has: a head that normalizes its weights is not copied
_ANY_WIDTH = 16  # what a norm without parameters is probed with
_EPS_NAMES = ("eps", "variance_epsilon", "epsilon", "norm_eps", "layer_norm_eps")
_TOLERANCE = 1e-3  # of the output's own size; in fp32, with ε far below the input's variance, the error is 1e-5


@dataclass(frozen=True)
class Behaviour:
    """What a norm module computes."""

    kind: str
    """`layernorm` or `rmsnorm`, with `-plus-one` where the scale is 1 + weight; or the name of an unnorm norm."""
    width: int
    """Channels C; 0 where the module holds nothing that has its width, and so takes any."""
    eps: float
    """What is added to the variance; 0 where nothing is."""
    affine: str
    """What it learns: `weight, bias`, `weight`, `bias` or `none`."""


@torch.no_grad()
def behaviour_of(module: nn.Module) -> Behaviour | None:
    """What `module` computes if it is a norm over the last dimension, else None. The module itself is not run."""
    if isinstance(module, Norm):
        learnt = [name for name in ("weight", "bias") if getattr(module, name, None) is not None]
        return Behaviour(module.spec.norm, module.width, 0.0, ", ".join(learnt) or "none")
    if not _may_be_norm(module):
        return None
    generator = torch.Generator().manual_seed(0)
    probe = _copy_with_random_parameters(module, generator)
    lead, width = _channel_shape(module)
    channels = width or _ANY_WIDTH
    rows = (2, 7 if channels != 7 else 5, *lead)
    offset = 3 * torch.randn(*rows, 1, generator=generator, device="cpu")
    x = 8 * (torch.randn(*rows, channels, generator=generator, device="cpu") + offset)  # x [2, 7, ..., C]
    try:
        out = type(module).forward(probe, x)
        if not isinstance(out, torch.Tensor) or out.shape != x.shape or not bool(out.isfinite().all()):
            return None
        for kind, normed in (("layernorm", _standardized(x)), ("rmsnorm", _unit_rms(x))):
            fit = _affine(normed, out)
            if fit is None:
                continue
            scale, shift = fit
            eps = _eps(probe, scale, shift, rows, generator)
            return Behaviour(kind + _suffix(probe, scale), width, eps, _affine_words(scale, shift))
    except Exception:  # it wants other inputs than [..., C], or fails on them in its own way: not a norm over channels
        return None
    return None


def kind_of(module: nn.Module) -> str | None:
    """`layernorm`, `rmsnorm`, either with `-plus-one`, the name of an unnorm norm, or None for anything else."""
    behaviour = behaviour_of(module)
    return behaviour.kind if behaviour else None


def takes_more_than_x(module: nn.Module) -> bool:
    """Whether `module.forward` has room for a second input, such as a gate. Only a forward shows whether it is used."""
    parameters = list(inspect.signature(type(module).forward).parameters.values())[2:]
    return any(p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) for p in parameters)


def _may_be_norm(module: nn.Module) -> bool:
    named = isinstance(module, nn.LayerNorm | nn.RMSNorm) or "norm" in type(module).__name__.lower()
    if not named or next(module.children(), None) is not None:
        return False  # of a module with children (a LayerNorm a head) the children are the norms
    return sum(p.numel() for p in module.parameters()) <= _MOST_PARAMETERS


def _copy_with_random_parameters(module: nn.Module, generator: torch.Generator) -> nn.Module:
    """A copy in fp32 on the CPU, without hooks on the way as its class's own `forward` is called."""
    probe = copy.copy(module)
    probe.__dict__["_parameters"] = {
        name: None
        if old is None
        else nn.Parameter(1.5 + torch.rand(old.shape, generator=generator, device="cpu"), requires_grad=False)
        for name, old in module._parameters.items()
    }
    probe.__dict__["_buffers"] = {
        name: old if old is None else torch.ones(old.shape) if old.is_meta else old.detach().cpu().float()
        for name, old in module._buffers.items()
    }
    return probe


def _channel_shape(module: nn.Module) -> tuple[tuple[int, ...], int]:
    """Leading dimensions (heads, where each has its own weight) and channels that the module's parameters have."""
    shapes = [tuple(p.shape) for p in module._parameters.values() if p is not None and p.numel() > 1]
    if not shapes and isinstance(normalized := getattr(module, "normalized_shape", None), tuple | list):
        shapes = [tuple(normalized)]
    return (shapes[0][:-1], int(shapes[0][-1])) if shapes else ((), 0)


def _unit_rms(x: torch.Tensor) -> torch.Tensor:
    """x [..., C] scaled to a root mean square of 1 over the last dimension."""
    return x / x.square().mean(-1, keepdim=True).sqrt()


def _standardized(x: torch.Tensor) -> torch.Tensor:
    """x [..., C] with mean 0 and root mean square 1 over the last dimension."""
    return _unit_rms(x - x.mean(-1, keepdim=True))


def _affine(normed: torch.Tensor, out: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Scale a and shift b [..., C] with out = a · normed + b [2, T, ..., C] on every row, or None if there are none."""
    t, y = normed.flatten(0, 1).double(), out.flatten(0, 1).double()
    t_centred, y_mean = t - t.mean(0), y.mean(0)
    scale = (t_centred * (y - y_mean)).sum(0) / t_centred.square().sum(0).clamp_min(1e-12)
    shift = y_mean - scale * t.mean(0)
    error = (scale * t + shift - y).square().mean().sqrt()
    size = y.square().mean().sqrt()
    follows = (scale * t_centred).square().mean().sqrt() > 0.01 * size  # a constant is no norm
    return (scale, shift) if follows and error <= _TOLERANCE * size else None


def _suffix(probe: nn.Module, scale: torch.Tensor) -> str:
    """`-plus-one` where the scale is 1 + a parameter rather than the parameter."""
    for parameter in probe.parameters():
        if parameter.shape == scale.shape and torch.allclose(scale, 1 + parameter.double(), rtol=1e-3):
            return "-plus-one"
    return ""


def _affine_words(scale: torch.Tensor, shift: torch.Tensor) -> str:
    ones, zeros = torch.ones_like(scale), torch.zeros_like(shift)
    learnt = {
        "weight": not torch.allclose(scale, ones, atol=1e-3),
        "bias": not torch.allclose(shift, zeros, atol=1e-3 * float(scale.abs().max())),
    }
    return ", ".join(name for name, present in learnt.items() if present) or "none"


def _eps(
    probe: nn.Module, scale: torch.Tensor, shift: torch.Tensor, rows: tuple[int, ...], generator: torch.Generator
) -> float:
    """ε from what it does to a small input; the module's own number where that agrees, which has every digit.

    A standardized x̂ times s comes out as a · x̂ · r + b with r = s / √(s² + ε), so ε = s² (1 / r² − 1); s² near ε
    is where r says most about it.
    """
    normed = _standardized(torch.randn(*rows, scale.shape[-1], generator=generator, device="cpu"))
    told = next((float(e) for name in _EPS_NAMES if isinstance(e := getattr(probe, name, None), float | int)), None)
    expected = scale * normed.double()
    square = told if told else 1e-5
    measured = 0.0
    for _ in range(3):
        out = type(probe).forward(probe, normed * square**0.5).double() - shift
        ratio = float((out * expected).sum() / expected.square().sum())
        measured = square * (1 / ratio**2 - 1) if 0 < ratio < 1 - 1e-6 else 0.0
        if told is not None and abs(measured - told) <= 0.02 * told:
            return told
        square = min(max(measured, 1e-12), 1.0)
    return float(f"{measured:.2g}")
