"""Find the norm sites of a model.

A class name only narrows the search; what makes a module a norm is its behaviour: its output does not change when its
input is scaled (LayerNorm and RMSNorm) or shifted (LayerNorm alone). Sites are listed in execution order, learnt from
one forward pass over a few dummy tokens; on the meta device nothing can run, so there the order is the modules' own.
"""

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from unnorm.foundation.errors import ModelError, SiteError
from unnorm.norms.spec import Norm

ROLES = ("attention", "mlp", "qk", "final", "embedding", "other")

_ROLE_OF_NAME = {
    "attention": ("ln_1", "input_layernorm", "attention_norm", "self_attn_layer_norm"),
    "mlp": ("ln_2", "post_attention_layernorm", "ffn_norm", "pre_feedforward_layernorm"),
    "qk": ("q_norm", "k_norm", "query_layernorm", "key_layernorm", "q_layernorm", "k_layernorm"),
    "final": ("ln_f", "final_layer_norm", "norm", "norm_f", "final_norm", "final_layernorm"),
    "embedding": ("word_embeddings_layernorm", "emb_ln", "embed_norm", "embedding_norm"),
}
_PROBE_TOKENS = 8


@dataclass(frozen=True)
class Site:
    """One norm module in a model."""

    path: str
    """Full module path, as `model.get_submodule` takes it."""
    role: str
    """What reads its output: one of `ROLES`."""
    width: int
    """Channels, the size of the last dimension."""
    kind: str
    """`layernorm`, `rmsnorm`, or the name of one of unnorm's norms where the site is swapped."""
    parameters: int
    """How many parameters stand at the site."""
    order: int
    """Position in execution order, from 0."""
    order_is: str
    """`execution`, or `module` where no forward pass was possible."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def find_sites(model: nn.Module) -> list[Site]:
    """The norm sites of `model`, in execution order. A model without any is a `SiteError`.

    Works on GPT-2, GPT-NeoX and Llama families and on swapped models; pass the model before it is wrapped by peft.
    """
    if hasattr(model, "peft_config"):
        raise ModelError(
            "find_sites was given a PeftModel, whose wrappers hide the norms. Give it the model before "
            "get_peft_model, or PeftModel.get_base_model() after merge_and_unload()."
        )
    found = {path: kind for path, module in model.named_modules() if (kind := kind_of(module))}
    if not found:
        raise SiteError(
            f"{type(model).__name__} has no norm sites: no module behaves like LayerNorm or RMSNorm. "
            "Is it a transformer with its norms still in place?"
        )
    order, order_is = _execution_order(model, list(found))
    sites = []
    for position, path in enumerate(order):
        module = model.get_submodule(path)
        sites.append(
            Site(
                path=path,
                role=_role(path),
                width=width_of(module),
                kind=found[path],
                parameters=sum(parameter.numel() for parameter in module.parameters()),
                order=position,
                order_is=order_is,
            )
        )
    return sites


@torch.no_grad()
def kind_of(module: nn.Module) -> str | None:
    """`layernorm`, `rmsnorm`, the name of an unnorm norm, or None for anything else."""
    if isinstance(module, Norm):
        return module.spec.norm
    if not (isinstance(module, nn.LayerNorm) or "norm" in type(module).__name__.lower()):
        return None
    weight = getattr(module, "weight", None)
    if next(module.children(), None) is not None or (weight is None and not hasattr(module, "normalized_shape")):
        return None
    if weight is not None and weight.is_meta:
        return "layernorm" if isinstance(module, nn.LayerNorm) else "rmsnorm"
    device, dtype = (weight.device, weight.dtype) if weight is not None else (torch.device("cpu"), torch.float32)
    # A shift of 5 and a scale of 2 are exact enough in bf16, and large enough that ε does not matter.
    x = 8 * torch.randn(3, width_of(module), generator=torch.Generator().manual_seed(0)).to(device, dtype)
    try:
        out = module(x)
        tolerance = 0.05 * float(out.float().std()) + 1e-6
        if not torch.allclose(module(2 * x).float(), out.float(), atol=tolerance):
            return None
        return "layernorm" if torch.allclose(module(x + 5).float(), out.float(), atol=tolerance) else "rmsnorm"
    except (RuntimeError, TypeError, ValueError):  # it takes something other than [N, C]: not a norm over channels
        return None


def width_of(module: nn.Module) -> int:
    """Channels of a norm module."""
    if isinstance(module, Norm):
        return module.width
    if isinstance(module, nn.LayerNorm):
        return int(module.normalized_shape[-1])
    return int(module.weight.shape[-1])  # type: ignore[union-attr,index]


def _role(path: str) -> str:
    leaf = path.rsplit(".", 1)[-1]
    return next((role for role, names in _ROLE_OF_NAME.items() if leaf in names), "other")


@torch.no_grad()
def _execution_order(model: nn.Module, paths: list[str]) -> tuple[list[str], str]:
    """`paths` in the order in which one forward pass reaches them; sites that it does not reach come last."""
    parameter = next(model.parameters())
    if parameter.is_meta:
        return paths, "module"
    reached: list[str] = []
    handles = [
        model.get_submodule(path).register_forward_pre_hook(lambda *_, path=path: reached.append(path))
        for path in paths
    ]
    was_training = model.training
    model.eval()
    try:
        vocabulary = getattr(getattr(model, "config", None), "vocab_size", _PROBE_TOKENS)
        tokens = torch.arange(_PROBE_TOKENS, device=parameter.device)[None] % vocabulary
        model(input_ids=tokens, use_cache=False)
    finally:
        model.train(was_training)
        for handle in handles:
            handle.remove()
    first = list(dict.fromkeys(reached))
    return first + [path for path in paths if path not in first], "execution"
