"""Blocks in which a residual add and the norms before and after it are one kernel, and attentions in which the norms of
queries and keys are, on CUDA and without a gradient.

A block's last add belongs with the norms of the next block. So a block computes those too and hands them on, and the
next one takes them if it is given the very tensor that they were computed of, unchanged. Whatever else happens between
blocks, such as a hook that steers, costs the fusion and not the result. A compiler fuses such operations itself and is
shown the original code.
"""

from collections.abc import Callable
from functools import cache
from importlib import import_module
from inspect import unwrap
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules import module as modules

from unnorm.norms.curve import CurveNorm
from unnorm.norms.kernels import add_norms, curve_of, has_kernel, norm_add, norm_pair

_NEXT, _HANDED = "_unnorm_next", "_unnorm_handed"
_SANDWICH = ("post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm")


class _Family(NamedTuple):
    """Blocks, or attentions, that run the code of `model`: their norms, how they run fused, and which of the next
    block's norms follow the last add at once."""

    model: str
    norms: tuple[str, ...]
    forward: Callable[..., Any]
    follow: tuple[str, ...] = ()
    fits: Callable[[Any], bool] = lambda block: True


def fuse_blocks_(model: nn.Module) -> dict[str, Callable[[], None]]:
    """Let every block of a known kind run fused, whose norms have kernels. Path -> what undoes it."""
    families = _families()
    found: dict[str, tuple[nn.Module, _Family]] = {}
    for path, block in model.named_modules():
        family = families.get(_code(type(block)))
        if family is not None and family.fits(block) and _curves(block, family.norms) is not None:
            found[path] = block, family
    undo = {}
    for path, (block, family) in found.items():
        original = type(block)
        parent, _, number = path.rpartition(".")
        after = found.get(f"{parent}.{int(number) + 1}") if number.isdigit() else None
        block.__class__ = _fused_class(original, family)  # type: ignore[arg-type]
        block.__dict__[_NEXT] = None if after is None else after[0]  # past Module, whose child it is not
        block.__dict__[_HANDED] = None
        undo[path] = _undo(block, original)
    return undo


def _undo(block: nn.Module, original: type) -> Callable[[], None]:
    def undo() -> None:
        block.__class__ = original
        del block.__dict__[_NEXT], block.__dict__[_HANDED]

    return undo


@cache
def _fused_class(original: type, family: _Family) -> type:
    fused = type(f"Fused{original.__name__}", (original,), {"forward": family.forward, "_unnorm_family": family})
    fused.__module__ = original.__module__
    return fused


def fusable(x: Tensor) -> bool:
    """Whether blocks given x may run fused now."""
    return (
        type(x) is Tensor
        and has_kernel(x)
        and not torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
        and not torch.is_inference_mode_enabled()  # whose tensors do not know whether they were changed
    )


def _llama(block: Any, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    if args or not _may(block, hidden_states):
        return _unfused(block, hidden_states, *args, **kwargs)
    (y,) = _taken(block, hidden_states)
    mixed, _ = block.self_attn(hidden_states=y, **kwargs)
    h, y, _ = add_norms(hidden_states, mixed, None, block.post_attention_layernorm)
    return _handed_on(block, h, block.mlp(y))


def _gpt2(
    block: Any,
    hidden_states: Tensor,
    past_key_values: Any = None,
    attention_mask: Any = None,
    encoder_hidden_states: Any = None,
    encoder_attention_mask: Any = None,
    use_cache: bool | None = False,
    **kwargs: Any,
) -> Tensor:
    kwargs |= {"past_key_values": past_key_values, "attention_mask": attention_mask, "use_cache": use_cache}
    if encoder_hidden_states is not None or not _may(block, hidden_states):
        kwargs |= {"encoder_hidden_states": encoder_hidden_states, "encoder_attention_mask": encoder_attention_mask}
        return _unfused(block, hidden_states, **kwargs)
    (y,) = _taken(block, hidden_states)
    mixed, _ = block.attn(y, **kwargs)
    h, y, _ = add_norms(mixed, hidden_states, None, block.ln_2)
    return _handed_on(block, h, block.mlp(y))


def _gpt_neox(block: Any, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Attention and MLP side by side: two adds, and two norms of their sum."""
    if args or not _may(block, hidden_states):
        return _unfused(block, hidden_states, *args, **kwargs)
    y, other = _taken(block, hidden_states)
    mixed, _ = block.attention(y, **kwargs)
    return _handed_on(block, block.mlp(other), mixed, hidden_states)


def _gemma(block: Any, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Attention and MLP between two norms each: the second is of what is added."""
    if args or not _may(block, hidden_states):
        return _unfused(block, hidden_states, *args, **kwargs)
    (y,) = _taken(block, hidden_states)
    mixed, _ = block.self_attn(hidden_states=y, **kwargs)
    h, normed = norm_add(mixed, hidden_states, block.post_attention_layernorm, block.pre_feedforward_layernorm)
    return _handed_on_normed(block, block.mlp(normed), h, block.post_feedforward_layernorm)


def _olmo(block: Any, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Norms of what is added, and no others."""
    if args or not _may(block, hidden_states):
        return _unfused(block, hidden_states, *args, **kwargs)
    mixed, _ = block.self_attn(hidden_states=hidden_states, **kwargs)
    h, _ = norm_add(mixed, hidden_states, block.post_attention_layernorm)
    return norm_add(block.mlp(h), h, block.post_feedforward_layernorm)[0]


def _attention(
    attention: Any,
    hidden_states: Tensor,
    position_embeddings: Any = None,
    attention_mask: Any = None,
    past_key_values: Any = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """Attention with norms of queries and keys, of each head or of all of them together, before positions go in."""
    if not _may(attention, hidden_states):
        given = (hidden_states, position_embeddings, attention_mask, past_key_values)
        return _unfused(attention, *given, **kwargs)  # type: ignore[return-value]
    around = unwrap(type(attention).__base__.forward).__globals__  # type: ignore[union-attr]
    shape = hidden_states.shape[:-1]
    own = [attention.q_norm, attention.k_norm]
    q, k = attention.q_proj(hidden_states), attention.k_proj(hidden_states)
    q, k = (each.view(*shape, -1, norm.width) for each, norm in zip((q, k), own, strict=True))
    q, k = norm_pair(q, own[0], k, own[1])
    v = attention.v_proj(hidden_states)
    q, k, v = (each.view(*shape, -1, attention.head_dim).transpose(1, 2) for each in (q, k, v))
    q, k = around["apply_rotary_pos_emb"](q, k, *position_embeddings)
    if past_key_values is not None:
        k, v = past_key_values.update(k, v, attention.layer_idx)
    if hasattr(attention, "sliding_window"):
        kwargs["sliding_window"] = attention.sliding_window
    run = around["ALL_ATTENTION_FUNCTIONS"].get_interface(
        attention.config._attn_implementation, around["eager_attention_forward"]
    )
    out, weights = run(attention, q, k, v, attention_mask, dropout=0.0, scaling=attention.scaling, **kwargs)
    return attention.o_proj(out.reshape(*shape, -1).contiguous()), weights


def _may(block: Any, x: Tensor) -> bool:
    return not block.training and fusable(x) and _curves(block, block._unnorm_family.norms) is not None


def _unfused(block: Any, *args: Any, **kwargs: Any) -> Tensor:
    block.__dict__[_HANDED] = None
    return type(block).__base__.forward(block, *args, **kwargs)  # type: ignore[union-attr, no-any-return]


def _taken(block: Any, h: Tensor) -> tuple[Tensor, ...]:
    """The norms of h that the block begins with: the ones computed already, or computed now."""
    handed, block.__dict__[_HANDED] = block.__dict__[_HANDED], None
    if handed is not None and handed[0] is h and handed[1] == h._version:
        return handed[2]  # type: ignore[no-any-return]
    return tuple(getattr(block, name)(h) for name in block._unnorm_family.follow)


def _handed_on(block: Any, x: Tensor, second: Tensor, third: Tensor | None = None) -> Tensor:
    """x + second + third, and what the next block begins with to it."""
    after = block.__dict__[_NEXT]
    if after is None or _curves(after, names := after._unnorm_family.follow) is None:
        h = x + second
        return h if third is None else h + third
    h, *outputs = add_norms(x, second, third, *(getattr(after, name) for name in names))
    after.__dict__[_HANDED] = h, h._version, tuple(outputs[: len(names)])
    return h


def _handed_on_normed(block: Any, x: Tensor, second: Tensor, inner: Any) -> Tensor:
    """second + inner(x), and what the next block begins with to it."""
    after = block.__dict__[_NEXT]
    names: tuple[str, ...] = () if after is None else after._unnorm_family.follow
    follows = len(names) == 1 and _curves(after, names) == curve_of(inner)
    h, y = norm_add(x, second, inner, getattr(after, names[0]) if follows else None)
    if y is not None:
        after.__dict__[_HANDED] = h, h._version, (y,)
    return h


def _curves(block: Any, names: tuple[str, ...]) -> str | None:
    """The curve of the norms of these names, if there is a kernel for all of them at once, and nobody watches them."""
    if modules._global_forward_hooks or modules._global_forward_pre_hooks:
        return None
    own = block._modules
    curve = None
    for name in names:
        norm = own.get(name)
        if not isinstance(norm, CurveNorm) or norm._forward_hooks or norm._forward_pre_hooks:
            return None
        found = curve_of(norm)
        if found is None or curve not in (None, found):
            return None
        curve = found
    return curve


@cache
def _families() -> dict[Any, _Family]:
    """By the code that blocks run: many models' blocks are copies of Llama's, under other names."""
    known = (
        _Family(
            "llama.LlamaDecoderLayer", ("input_layernorm", "post_attention_layernorm"), _llama, ("input_layernorm",)
        ),
        _Family("gpt2.GPT2Block", ("ln_1", "ln_2"), _gpt2, ("ln_1",)),
        _Family(
            "gpt_neox.GPTNeoXLayer",
            ("input_layernorm", "post_attention_layernorm"),
            _gpt_neox,
            ("input_layernorm", "post_attention_layernorm"),
            lambda block: block.use_parallel_residual,
        ),
        _Family("gemma2.Gemma2DecoderLayer", ("input_layernorm", *_SANDWICH), _gemma, ("input_layernorm",)),
        _Family("olmo2.Olmo2DecoderLayer", (_SANDWICH[0], _SANDWICH[2]), _olmo),
        *(
            _Family(model, ("q_norm", "k_norm"), _attention)
            for model in (
                "qwen3.Qwen3Attention",
                "gemma3.Gemma3Attention",
                "olmo2.Olmo2Attention",
                "olmo3.Olmo3Attention",
            )
        ),
    )
    found = {}
    for family in known:
        model, name = family.model.split(".")
        found[_code(getattr(import_module(f"transformers.models.{model}.modeling_{model}"), name))] = family
    return found


def _code(kind: Any) -> tuple[Any, ...] | None:
    """What tells the code of a module's forward from others, without transformers' own wrapper around it."""
    code = getattr(unwrap(kind.forward), "__code__", None)
    return None if code is None else (code.co_code, code.co_names, code.co_varnames)
