"""A site's role from its path alone: for the meta device, and wherever the data flow does not tell."""

import re

_PATTERNS = (
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


def role_from_name(path: str, paths: list[str]) -> str:
    """The role that `path` suggests among `paths`, all the norms there are; `other` where it suggests none.

    `post_attention_layernorm` comes before the MLP in Llama, and after the attention where the MLP has norms of its own
    (Gemma 2, OLMo 2).
    """
    parent, _, leaf = path.rpartition(".")
    if leaf == "post_attention_layernorm" and f"{parent}.post_feedforward_layernorm" in paths:
        return "attention"
    return next((role for role, pattern in _PATTERNS if re.fullmatch(pattern, path)), "other")
