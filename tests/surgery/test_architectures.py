"""What `find_sites` says of many architectures, checked by hand against their modelling code in transformers; and that
each can be swapped, calibrated and put back."""

import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

import unnorm
from surgery.architectures import CONFIGS, architecture, architecture_tokens
from unnorm import DyT
from unnorm.surgery.sites import ROLES, Site

DOCS = Path(__file__).parents[2] / "docs" / "surgery.md"
BEGIN, END = "<!-- architectures: begin -->\n", "<!-- architectures: end -->"

Place = tuple[str, str, str]  # path, role, residual


@dataclass(frozen=True)
class Expected:
    """Sites in execution order: `before`, `layer` for each of the two, `after`; `widths` where not 32."""

    name: str
    kind: str
    affine: str
    eps: float
    layers: str
    layer: list[Place]
    after: list[Place]
    before: tuple[Place, ...] = ()
    widths: tuple[tuple[str, int], ...] = ()


def pair(attention: str, mlp: str) -> list[Place]:
    return [(attention, "attention", "reads"), (mlp, "mlp", "reads")]


def final(path: str) -> list[Place]:
    return [(path, "final", "reads")]


def qk(q: str, k: str) -> list[Place]:
    return [(f"self_attn.{q}", "qk", "none"), (f"self_attn.{k}", "qk", "none")]


LN, RMS, RMS1 = "layernorm", "rmsnorm", "rmsnorm-plus-one"
WB = "weight, bias"
LLAMA_LAYER = pair("input_layernorm", "post_attention_layernorm")
NORM = final("model.norm")
LAYERS = "model.layers"
HEADS = (("q_norm", 8), ("k_norm", 8))
GEMMA2_LAYER: list[Place] = [
    ("input_layernorm", "attention", "reads"),
    ("post_attention_layernorm", "attention", "writes"),
    ("pre_feedforward_layernorm", "mlp", "reads"),
    ("post_feedforward_layernorm", "mlp", "writes"),
]


def llama_like(name: str, eps: float, kind: str = RMS, affine: str = "weight") -> Expected:
    return Expected(f"{name}ForCausalLM", kind, affine, eps, LAYERS, LLAMA_LAYER, NORM)


EXPECTED = {
    "gpt2": Expected("GPT2LMHeadModel", LN, WB, 1e-5, "transformer.h", pair("ln_1", "ln_2"), final("transformer.ln_f")),
    "gpt_neo": Expected(
        "GPTNeoForCausalLM", LN, WB, 1e-5, "transformer.h", pair("ln_1", "ln_2"), final("transformer.ln_f")
    ),
    # One norm feeds both attention and MLP.
    "gptj": Expected(
        "GPTJForCausalLM", LN, WB, 1e-5, "transformer.h", [("ln_1", "attention", "reads")], final("transformer.ln_f")
    ),
    "gpt_neox": Expected(
        "GPTNeoXForCausalLM", LN, WB, 1e-5, "gpt_neox.layers", LLAMA_LAYER, final("gpt_neox.final_layer_norm")
    ),
    "gpt_neox, sequential": Expected(
        "GPTNeoXForCausalLM", LN, WB, 1e-5, "gpt_neox.layers", LLAMA_LAYER, final("gpt_neox.final_layer_norm")
    ),
    "opt": Expected(
        "OPTForCausalLM",
        LN,
        WB,
        1e-5,
        "model.decoder.layers",
        pair("self_attn_layer_norm", "final_layer_norm"),
        final("model.decoder.final_layer_norm"),
    ),
    # As OPT-350m: norms after each sub-layer, no final one, embeddings of another width.
    "opt, post-norm": Expected(
        "OPTForCausalLM",
        LN,
        WB,
        1e-5,
        "model.decoder.layers",
        [("self_attn_layer_norm", "attention", "both"), ("final_layer_norm", "mlp", "both")],
        [],
    ),
    "bloom": Expected(
        "BloomForCausalLM",
        LN,
        WB,
        1e-5,
        "transformer.h",
        LLAMA_LAYER,
        final("transformer.ln_f"),
        (("transformer.word_embeddings_layernorm", "embedding", "both"),),
    ),
    "falcon": Expected(
        "FalconForCausalLM",
        LN,
        WB,
        1e-5,
        "transformer.h",
        [("input_layernorm", "attention", "reads")],
        final("transformer.ln_f"),
    ),
    "falcon, two norms": Expected(
        "FalconForCausalLM", LN, WB, 1e-5, "transformer.h", pair("ln_attn", "ln_mlp"), final("transformer.ln_f")
    ),
    "falcon, sequential": Expected(
        "FalconForCausalLM", LN, WB, 1e-5, "transformer.h", LLAMA_LAYER, final("transformer.ln_f")
    ),
    # Its LayerNorm has its bias set to None.
    "mpt": Expected(
        "MptForCausalLM",
        LN,
        "weight",
        1e-5,
        "transformer.blocks",
        pair("norm_1", "norm_2"),
        final("transformer.norm_f"),
    ),
    "phi": Expected(
        "PhiForCausalLM",
        LN,
        WB,
        1e-5,
        LAYERS,
        [("input_layernorm", "attention", "reads")],
        final("model.final_layernorm"),
    ),
    "phi, qk norms": Expected(
        "PhiForCausalLM",
        LN,
        WB,
        1e-5,
        LAYERS,
        [("input_layernorm", "attention", "reads"), *qk("q_layernorm", "k_layernorm")],
        final("model.final_layernorm"),
        widths=(("q_layernorm", 8), ("k_layernorm", 8)),
    ),
    "phi3": llama_like("Phi3", 1e-5),
    "stablelm": llama_like("StableLm", 1e-5, LN, WB),
    "llama": llama_like("Llama", 1e-6),
    "mistral": llama_like("Mistral", 1e-6),
    "mixtral": llama_like("Mixtral", 1e-5),
    "qwen2": llama_like("Qwen2", 1e-6),
    "qwen3": Expected(
        "Qwen3ForCausalLM",
        RMS,
        "weight",
        1e-6,
        LAYERS,
        [LLAMA_LAYER[0], *qk("q_norm", "k_norm"), LLAMA_LAYER[1]],
        NORM,
        widths=HEADS,
    ),
    "gemma": llama_like("Gemma", 1e-6, RMS1),
    "gemma2": Expected("Gemma2ForCausalLM", RMS1, "weight", 1e-6, LAYERS, GEMMA2_LAYER, NORM),
    "gemma3_text": Expected(
        "Gemma3ForCausalLM",
        RMS1,
        "weight",
        1e-6,
        LAYERS,
        [GEMMA2_LAYER[0], *qk("q_norm", "k_norm"), *GEMMA2_LAYER[1:]],
        NORM,
        widths=HEADS,
    ),
    "olmo": llama_like("Olmo", 1e-5, LN, "none"),
    # No norm before the sub-layers; queries and keys are normalized over all heads at once.
    "olmo2": Expected(
        "Olmo2ForCausalLM",
        RMS,
        "weight",
        1e-5,
        LAYERS,
        [
            *qk("q_norm", "k_norm"),
            ("post_attention_layernorm", "attention", "writes"),
            ("post_feedforward_layernorm", "mlp", "writes"),
        ],
        NORM,
        widths=(("k_norm", 16),),
    ),
    "cohere": Expected("CohereForCausalLM", LN, "weight", 1e-5, LAYERS, [LLAMA_LAYER[0]], NORM),
    # A weight [heads, head_dim]: the width is head_dim.
    "cohere, qk norms": Expected(
        "CohereForCausalLM",
        LN,
        "weight",
        1e-5,
        LAYERS,
        [LLAMA_LAYER[0], *qk("q_norm", "k_norm")],
        NORM,
        widths=HEADS,
    ),
    "cohere2": Expected("Cohere2ForCausalLM", LN, "weight", 1e-5, LAYERS, [LLAMA_LAYER[0]], NORM),
    "starcoder2": llama_like("Starcoder2", 1e-5, LN, WB),
    "mamba": Expected(
        "MambaForCausalLM",
        RMS,
        "weight",
        1e-5,
        "backbone.layers",
        [("norm", "other", "reads")],
        final("backbone.norm_f"),
    ),
    # Its mixer's gated norm is no site.
    "mamba2": Expected(
        "Mamba2ForCausalLM",
        RMS,
        "weight",
        1e-5,
        "backbone.layers",
        [("norm", "other", "reads")],
        final("backbone.norm_f"),
    ),
    "granite": llama_like("Granite", 1e-6),
    "glm": llama_like("Glm", 1.5625e-07),
    "glm4": Expected(
        "Glm4ForCausalLM",
        RMS,
        "weight",
        1.5625e-07,
        LAYERS,
        [
            ("input_layernorm", "attention", "reads"),
            ("post_self_attn_layernorm", "attention", "writes"),
            ("post_attention_layernorm", "mlp", "reads"),
            ("post_mlp_layernorm", "mlp", "writes"),
        ],
        NORM,
    ),
    "smollm3": llama_like("SmolLM3", 1e-6),
    "nemotron": llama_like("Nemotron", 1e-5, "layernorm-plus-one", WB),
    # Norms without parameters; model.norm is called twice, on the embeddings and at the end.
    "nanochat": Expected(
        "NanoChatForCausalLM",
        RMS,
        "none",
        1e-6,
        LAYERS,
        [LLAMA_LAYER[0], *qk("q_norm", "k_norm"), LLAMA_LAYER[1]],
        [],
        (("model.norm", "embedding", "both"),),
        HEADS,
    ),
    # Norms of the low-rank queries and keys-values, which attention's next projections read.
    "deepseek_v3": Expected(
        "DeepseekV3ForCausalLM",
        RMS,
        "weight",
        1e-6,
        LAYERS,
        [
            LLAMA_LAYER[0],
            ("self_attn.q_a_layernorm", "attention", "none"),
            ("self_attn.kv_a_layernorm", "attention", "none"),
            LLAMA_LAYER[1],
        ],
        NORM,
        widths=(("q_a_layernorm", 16), ("kv_a_layernorm", 12)),
    ),
    "bert": Expected(
        "BertForMaskedLM",
        LN,
        WB,
        1e-12,
        "bert.encoder.layer",
        [("attention.output.LayerNorm", "attention", "both"), ("output.LayerNorm", "mlp", "both")],
        [("cls.predictions.transform.LayerNorm", "final", "none")],
        (("bert.embeddings.LayerNorm", "embedding", "both"),),
    ),
}
# One LayerNorm a head, each a site: four of queries, then two of keys, without bias.
PER_HEAD = "stablelm, parallel, qk norms"


@pytest.fixture(scope="module")
def found() -> dict[str, tuple[str, list[Site]]]:
    models = {name: architecture(name) for name in CONFIGS}
    return {name: (type(model).__name__, unnorm.find_sites(model)) for name, model in models.items()}


def test_every_architecture_has_an_expectation():
    assert set(CONFIGS) == {*EXPECTED, PER_HEAD}


@pytest.mark.parametrize("name", EXPECTED)
def test_sites(name, found):
    expected = EXPECTED[name]
    class_name, sites = found[name]
    places = [
        *expected.before,
        *((f"{expected.layers}.{i}.{path}", role, res) for i in (0, 1) for path, role, res in expected.layer),
        *expected.after,
    ]
    assert class_name == expected.name
    assert [(site.path, site.role, site.residual) for site in sites] == places
    assert [site.order for site in sites] == list(range(len(places)))
    assert {(site.kind, site.affine, site.eps, site.order_is) for site in sites} == {
        (expected.kind, expected.affine, expected.eps, "execution")
    }
    widths = dict(expected.widths)
    assert [site.width for site in sites] == [widths.get(path.rsplit(".", 1)[-1], 32) for path, _, _ in places]


def test_sites_of_a_norm_for_each_head(found):
    _, sites = found[PER_HEAD]
    heads = [f"q_layernorm.norms.{h}" for h in range(4)] + [f"k_layernorm.norms.{h}" for h in range(2)]
    places = [
        place
        for i in (0, 1)
        for place in [
            (f"model.layers.{i}.input_layernorm", "attention", "reads", 32, WB),
            *((f"model.layers.{i}.self_attn.{head}", "qk", "none", 8, "weight") for head in heads),
        ]
    ]
    places.append(("model.norm", "final", "reads", 32, WB))
    assert [(s.path, s.role, s.residual, s.width, s.affine) for s in sites] == places


@pytest.mark.parametrize("name", [name for name in CONFIGS if name != "nanochat"])
def test_on_the_meta_device_all_but_the_flow_is_the_same(name, found):
    with torch.device("meta"):
        sites = unnorm.find_sites(architecture(name))

    def known(site: Site) -> tuple[object, ...]:
        return (site.path, site.role, site.kind, site.width, site.eps, site.affine, site.parameters)

    assert sorted(map(known, sites)) == sorted(map(known, found[name][1]))
    assert {(site.order_is, site.residual) for site in sites} == {("module", "unknown")}


@pytest.mark.parametrize("name", ["gemma3_text", "olmo2", "bert", "mamba", "mixtral", "cohere, qk norms"])
def test_bf16_and_train_mode_change_nothing(name, found):
    model = architecture(name).bfloat16().train()
    state = torch.get_rng_state()
    assert unnorm.find_sites(model) == found[name][1]
    assert all(module.training for module in model.modules())
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("name", CONFIGS)
@torch.no_grad()
def test_bare_swap_and_back(name):
    model, ids = architecture(name), architecture_tokens()
    before = model(input_ids=ids).logits
    old = unnorm.find_sites(model)
    unnorm.swap_(model, DyT(), calibrate_on=None)
    swapped = model(input_ids=ids).logits
    assert swapped.isfinite().all()
    assert not torch.allclose(swapped, before, atol=1e-3)
    new = unnorm.find_sites(model)
    assert [(s.path, s.role, s.residual, s.width) for s in new] == [(s.path, s.role, s.residual, s.width) for s in old]
    assert {site.kind for site in new} == {"dyt"}
    unnorm.unswap_(model)
    assert torch.equal(model(input_ids=ids).logits, before)


@pytest.mark.parametrize("name", CONFIGS)
@torch.no_grad()
def test_calibrated_swap_is_close(name):
    model, ids = architecture(name), architecture_tokens()
    before = model(input_ids=ids).logits
    report = unnorm.swap_(model, DyT(), calibrate_on=ids)
    assert [fit.path for fit in report.calibration.sites] == [site.path for site in report.sites]
    # nanochat's one final norm is called on the embeddings too
    assert report.calibration.several == (("model.norm",) if name == "nanochat" else ())
    error = (model(input_ids=ids).logits - before).square().mean() / before.var()
    assert error < 0.4


@pytest.mark.xfail(strict=True, reason="mamba casts to the dtype of norm.weight, which swapped norms keep in fp32")
@torch.no_grad()
def test_a_swapped_bf16_mamba_runs():
    model = architecture("mamba").bfloat16()
    unnorm.swap_(model, DyT(), calibrate_on=None)
    model(input_ids=architecture_tokens())


@pytest.mark.xfail(strict=True, reason="mamba reads norm.weight.dtype, and this norm has no weight")
@torch.no_grad()
def test_a_mamba_swapped_to_a_norm_without_weight_runs():
    model = architecture("mamba")
    unnorm.swap_(model, DyT(affine=False), calibrate_on=None)
    model(input_ids=architecture_tokens())


def test_the_table_in_the_docs_is_what_was_found(found):
    text = DOCS.read_text()
    head, rest = text.split(BEGIN)
    old, tail = rest.split(END)
    new = _table(found)
    if os.environ.get("UNNORM_WRITE_DOCS") == "1":
        DOCS.write_text(head + BEGIN + new + END + tail)
    else:
        assert old == new, "run this test with UNNORM_WRITE_DOCS=1 to write the table again"


def _table(found: dict[str, tuple[str, list[Site]]]) -> str:
    lines = ["| architecture | class | sites | kinds | where |", "|---|---|---|---|---|"]
    for name, (class_name, sites) in found.items():
        kinds = ", ".join(sorted({site.kind for site in sites}))
        counts = Counter((site.role, site.residual) for site in sites)
        order = sorted(counts, key=lambda place: (ROLES.index(place[0]), place[1]))
        where = ", ".join(f"{counts[place]} {place[0]} ({place[1]})" for place in order)
        lines.append(f"| {name} | `{class_name}` | {len(sites)} | {kinds} | {where} |")
    return "\n".join(lines) + "\n"
