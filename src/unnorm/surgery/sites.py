"""Find the norm sites of a model.

What a module computes decides whether it is a norm (`norm_behaviour`); where it stands, what it serves and the order of
the sites come from the data flow of one forward pass over a few dummy tokens (`data_flow`, `residual_stream`). On the
meta device, and in a model that does not run on token ids alone, no forward is possible: there the order is the
modules' own, roles come from names, and what a site does to the residual stream is not known.
"""

import re
from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from unnorm.foundation.errors import ModelError, SiteError
from unnorm.surgery.base import unwrapped
from unnorm.surgery.data_flow import Flow, trace
from unnorm.surgery.norm_behaviour import Behaviour, behaviour_of, takes_more_than_x
from unnorm.surgery.residual_stream import StreamPlace, places

ROLES = ("attention", "mlp", "qk", "final", "embedding", "other")
_ROLES_OF_NAMES = (
    ("qk", r"(.*\.)?(q|k|query|key)_?(layer)?_?norm(\.norms\.\d+)?"),
    ("embedding", r"(.*\.)?(word_embeddings_layernorm|emb_ln|embed\w*_norm|embeddings\.(LayerNorm|norm))"),
    ("attention", r".*\.(attention\.output\.LayerNorm|attention\.\w*norm|self_attn\.\w*norm)"),
    ("attention", r".*\.(ln_1|norm_1|input_layernorm|attention_norm|attn_norm|self_attn_layer_norm|ln_attn)"),
    ("attention", r".*\.post_(self_)?attn_layernorm"),
    ("mlp", r".*\.(ln_2|norm_2|post_attention_layernorm|ffn_norm|mlp_norm|ln_mlp|post_mlp_layernorm)"),
    ("mlp", r".*\.(pre|post)_feedforward_layernorm"),
    ("mlp", r".*\.\d+\.(final_layer_norm|output\.LayerNorm)"),
    ("final", r"(?!.*\.\d+\.)(.*\.)?(ln_f|norm|norm_f|final_norm|final_layer_?norm|transform\.LayerNorm)"),
)
"""For the meta device, and wherever the data flow does not tell."""


@dataclass(frozen=True)
class Site:
    """One norm module in a model."""

    path: str
    """Full module path, as `model.get_submodule` takes it."""
    role: str
    """What it serves, one of `ROLES`: what reads its output, or, of a norm after a sub-layer, that sub-layer. A norm
    that attention and MLP share is the attention's; one before a state space, a recurrence or a convolution is
    `other`."""
    width: int
    """Channels, the size of the last dimension."""
    kind: str
    """`layernorm` or `rmsnorm`, with `-plus-one` where the scale is 1 + weight (Gemma, Nemotron), or the name of one of
    unnorm's norms where the site is swapped."""
    parameters: int
    """How many parameters stand at the site."""
    order: int
    """Position in execution order, from 0."""
    order_is: str
    """`execution`; `unreached` where the forward pass on token ids came by other sites and not by this one (a vision
    tower, cross-attention without an encoder); `module` where no forward pass was possible."""
    eps: float = 0.0
    """What is added to the variance; 0 where nothing is, or where an old manifest does not say."""
    affine: str = "unknown"
    """What it learns: `weight, bias`, `weight`, `bias` or `none`; `unknown` where an old manifest does not say."""
    residual: str = "unknown"
    """`reads` the residual stream (pre-norm), `writes` it (its output is added: post-norm), `both` (its output is the
    stream from there on, as in BERT), `none` (queries, keys and other inner norms); `unknown` where no forward pass
    was possible or it did not come by, or where the stream is of an unusual make (Gemma 3n)."""

    @property
    def is_reached(self) -> bool:
        """Whether a causal forward pass on token ids comes by, as far as is known. What it does not come by can neither
        be fitted nor trained on text, and is left alone unless it is asked for."""
        return self.order_is != "unreached"

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def find_sites(model: nn.Module) -> list[Site]:
    """The norm sites of `model`, in execution order. A model without any is a `SiteError`.

    A norm that is called with a gate is left out, as an element-wise norm cannot stand there; so is, where no forward
    pass was possible, a norm that could take a gate or that holds nothing to tell its width by. Works on swapped
    models too; pass the model before it is wrapped by peft.
    """
    model = unwrapped(model)
    if hasattr(model, "peft_config"):
        raise ModelError(
            "find_sites was given a PeftModel, whose wrappers hide the norms. Give it the model before "
            "get_peft_model, or PeftModel.get_base_model() after merge_and_unload()."
        )
    norms = {path: found for path, module in model.named_modules() if (found := behaviour_of(module))}
    flow = trace(model, list(norms)) if norms else None
    paths = _in_order([path for path in norms if _replaceable(model, path, norms[path], flow)], flow)
    if not paths:
        raise SiteError(f"{type(model).__name__} has no norm sites: {_why_none(norms)}")
    where = _places(paths, flow)
    sites = []
    for position, path in enumerate(paths):
        behaviour = norms[path]
        sites.append(
            Site(
                path=path,
                role=where[path].role,
                width=flow.widths.get(path, behaviour.width) if flow else behaviour.width,
                kind=behaviour.kind,
                parameters=sum(parameter.numel() for parameter in model.get_submodule(path).parameters()),
                order=position,
                order_is="module" if flow is None else "execution" if path in flow.calls else "unreached",
                eps=behaviour.eps,
                affine=behaviour.affine,
                residual=where[path].residual,
            )
        )
    return sites


def reached_sites(model: nn.Module) -> list[Site]:
    """Those of `find_sites` that text reaches."""
    return [site for site in find_sites(model) if site.is_reached]


def _why_none(norms: dict[str, Behaviour]) -> str:
    if norms:
        return (
            f"its {len(norms)} norms take a second input, or do not tell their width without a forward pass. "
            "Load the model with its weights, if it was on the meta device."
        )
    return "no module behaves like LayerNorm or RMSNorm. Is it a transformer with its norms still in place?"


def _replaceable(model: nn.Module, path: str, behaviour: Behaviour, flow: Flow | None) -> bool:
    """Whether a norm of x [..., C] alone stands at `path`, and its width is known."""
    if flow is not None and path in flow.calls:
        return path not in flow.gated
    return behaviour.width > 0 and not takes_more_than_x(model.get_submodule(path))


def _in_order(paths: list[str], flow: Flow | None) -> list[str]:
    """`paths` in the order in which the forward pass first reaches them; those it does not reach come last."""
    reached = [path for path in flow.calls if path in set(paths)] if flow else []
    return reached + [path for path in paths if path not in set(reached)]


def _places(paths: list[str], flow: Flow | None) -> dict[str, StreamPlace]:
    found = places(flow) if flow else {}
    where = {}
    for path in paths:
        place = found.get(path, StreamPlace("", "unknown"))
        where[path] = StreamPlace(place.role or role_from_name(path, paths), place.residual)
    return {path: _as_its_peers(path, where) for path in paths}


def _as_its_peers(path: str, where: dict[str, StreamPlace]) -> StreamPlace:
    """The place of `path`, or that of the same norm in the other layers if only it is called the final one.

    In a BERT the last layer's norm is read by the head alone, exactly as the final norm of a GPT-2 is; what sets them
    apart is that the other layers have one like it.
    """
    if where[path].role != "final":
        return where[path]
    pattern = re.sub(r"\.\d+\.", ".#.", path)
    peers = [p for other, p in where.items() if other != path and re.sub(r"\.\d+\.", ".#.", other) == pattern]
    return Counter(peers).most_common(1)[0][0] if peers else where[path]


def role_from_name(path: str, paths: list[str]) -> str:
    """The role that `path` suggests among `paths`, all the norms there are; `other` where it suggests none.

    `post_attention_layernorm` comes before the MLP in Llama, and after the attention where the MLP has norms of its own
    (Gemma 2, OLMo 2).
    """
    parent, _, leaf = path.rpartition(".")
    if leaf == "post_attention_layernorm" and f"{parent}.post_feedforward_layernorm" in paths:
        return "attention"
    return next((role for role, pattern in _ROLES_OF_NAMES if re.fullmatch(pattern, path)), "other")


@torch.no_grad()
def affine_of(module: nn.Module, site: Site) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """(γ, β), each [C] fp32 or None, of the pretrained norm at `site`: Gemma and Nemotron store γ − 1."""
    weight, bias = getattr(module, "weight", None), getattr(module, "bias", None)
    if weight is None:
        return None, None
    gamma = weight.float() + (1.0 if site.kind.endswith("-plus-one") else 0.0)
    return gamma, bias.float() if bias is not None else None
