"""The forward pass that `find_sites` makes: what it leaves as it was, and what it does where none is possible."""

import logging
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM

import unnorm
from conftest import tiny_config, tiny_model
from surgery.architectures import architecture, architecture_config
from unnorm.artefacts.manifest import SiteEntry
from unnorm.surgery.sites import Site


class Twice(nn.Module):
    """A block that is run twice, whose own late norm comes before an early one."""

    def __init__(self):
        super().__init__()
        self.late, self.early, self.unused = nn.LayerNorm(8), nn.LayerNorm(8), nn.LayerNorm(8)
        self.embedding, self.linear = nn.Embedding(16, 8), nn.Linear(8, 8)

    def forward(self, input_ids):
        x = self.embedding(input_ids)
        for _ in range(2):
            x = x + self.linear(self.early(x))
        return self.late(x)


class Failing(Twice):
    def forward(self, input_ids):
        torch.rand(3)
        self.early(self.embedding(input_ids))
        raise LookupError("halfway")


def test_a_module_that_runs_twice_is_one_site_and_one_that_does_not_run_comes_last():
    sites = unnorm.find_sites(Twice())
    assert [(s.path, s.role, s.residual) for s in sites] == [
        ("early", "mlp", "reads"),
        ("late", "final", "reads"),
        ("unused", "other", "unknown"),
    ]
    assert [site.is_reached for site in sites] == [True, True, False]


@pytest.mark.parametrize("model", [Twice(), Failing()], ids=["runs", "fails"])
def test_modes_hooks_and_random_state_are_as_before(model):
    model.train()
    model.linear.eval()
    state = torch.get_rng_state()
    sites = unnorm.find_sites(model)
    assert sites[0].path == ("late" if isinstance(model, Failing) else "early")
    ways = {"module"} if isinstance(model, Failing) else {"execution", "unreached"}
    assert {site.order_is for site in sites} == ways
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training
    assert model.early.training
    assert not model.linear.training
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in model.modules())
    assert all(p.grad is None for p in model.parameters())


def test_an_encoder_decoder_degrades_to_module_order():
    config = AutoConfig.for_model(
        "t5", vocab_size=64, d_model=32, d_kv=8, d_ff=64, num_layers=1, num_heads=4, decoder_start_token_id=0
    )
    sites = unnorm.find_sites(AutoModelForSeq2SeqLM.from_config(config))
    assert len(sites) == 7
    assert {(s.kind, s.order_is, s.residual) for s in sites} == {("rmsnorm", "module", "unknown")}


def test_an_encoder_decoder_that_runs_on_token_ids_is_traced():
    config = AutoConfig.for_model(
        "bart",
        vocab_size=64,
        d_model=32,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        max_position_embeddings=32,
    )
    sites = unnorm.find_sites(AutoModelForSeq2SeqLM.from_config(config))
    assert sites[0].path == "model.encoder.layernorm_embedding"
    assert {s.order_is for s in sites} == {"execution"}


def test_the_context_may_be_shorter_than_the_probe():
    config = tiny_config("gpt2")
    config.n_positions = 4
    sites = unnorm.find_sites(AutoModelForCausalLM.from_config(config))
    assert {site.order_is for site in sites} == {"execution"}


@pytest.mark.parametrize("name", ["opt", "phi3", "mamba", "bert"])
def test_nothing_is_printed(name, capfd):
    model = architecture(name)
    capfd.readouterr()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        unnorm.find_sites(model)
    assert capfd.readouterr() == ("", "")
    assert logging.root.manager.disable == 0


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma3_text", "bert", "phi, qk norms", "olmo2"])
def test_the_attention_implementation_does_not_matter(name, attention):
    model = architecture(name)
    expected = unnorm.find_sites(model)
    model.set_attn_implementation(attention)
    assert unnorm.find_sites(model) == expected


def test_layers_that_share_their_weights_and_embeddings_of_another_width():
    from transformers import AutoModelForMaskedLM

    config = AutoConfig.for_model(
        "albert",
        vocab_size=64,
        embedding_size=16,
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=32,
    )
    sites = unnorm.find_sites(AutoModelForMaskedLM.from_config(config))
    assert [(s.role, s.residual, s.width) for s in sites] == [
        ("embedding", "both", 16),
        ("attention", "both", 32),
        ("mlp", "both", 32),
        ("final", "none", 16),
    ]


def test_a_site_goes_through_json_and_a_manifest():
    import orjson

    site = unnorm.find_sites(tiny_model("llama"))[0]
    assert Site(**orjson.loads(orjson.dumps(site.to_dict()))) == site
    assert SiteEntry(**site.to_dict(), spec={"norm": "dyt"}).site() == site


def test_a_whole_stand_in_base_takes_less_than_a_forward_pass_over_a_few_rows(shared: Path):
    import time

    from unnorm.surgery.base import load_base

    model = load_base(str(shared / "bases" / "llama-3m"))
    ids = torch.randint(1, 4096, (16, 256), generator=torch.Generator().manual_seed(0))
    ratios = []
    while len(ratios) < 6 and min(ratios, default=9.0) > 0.5:  # side by side; the smallest is the least disturbed
        started = time.perf_counter()
        assert len(unnorm.find_sites(model)) == 33
        search = time.perf_counter() - started
        started = time.perf_counter()
        with torch.no_grad():
            model(ids, use_cache=False)
        ratios.append(search / (time.perf_counter() - started))
    assert min(ratios) <= 0.5, ratios


def test_a_config_of_a_model_that_pads_with_a_low_id_is_not_probed_with_it():
    from unnorm.surgery.data_flow import dummy_inputs

    config = architecture_config("phi3")
    config.pad_token_id, config.eos_token_id = 30, [29, 28]
    model = AutoModelForCausalLM.from_config(config)
    ids = dummy_inputs(model, torch.device("cpu"))["input_ids"]
    assert ids.shape == (1, 8)
    assert not {28, 29, 30} & set(ids[0].tolist())


SMALL = {
    "vocab_size": 64,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "intermediate_size": 64,
    "max_position_embeddings": 32,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def places(model_type: str, **settings) -> list[tuple[str, str, str]]:
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **{**SMALL, **settings}))
    return [(s.path.removeprefix("model.layers."), s.role, s.residual) for s in unnorm.find_sites(model)]


def test_a_hybrid_of_mamba_attention_and_experts():
    """Jamba: layer 0 is a Mamba block and an MLP, layer 1 attention and experts."""
    mamba = {"mamba_d_state": 4, "mamba_dt_rank": 4, "use_mamba_kernels": False}
    assert places("jamba", num_experts=2, attn_layer_period=2, attn_layer_offset=1, **mamba) == [
        ("0.input_layernorm", "other", "reads"),
        ("0.mamba.dt_layernorm", "other", "none"),
        ("0.mamba.b_layernorm", "other", "none"),
        ("0.mamba.c_layernorm", "other", "none"),
        ("0.pre_ff_layernorm", "mlp", "reads"),
        ("1.input_layernorm", "attention", "reads"),
        ("1.pre_ff_layernorm", "mlp", "reads"),
        ("model.final_layernorm", "final", "reads"),
    ]


def test_norms_inside_attention_and_mlp_belong_to_them():
    """BitNet has a norm before the output projection of each."""
    assert places("bitnet")[:4] == [
        ("0.input_layernorm", "attention", "reads"),
        ("0.self_attn.attn_sub_norm", "attention", "none"),
        ("0.post_attention_layernorm", "mlp", "reads"),
        ("0.mlp.ffn_sub_norm", "mlp", "none"),
    ]


def test_a_stream_of_norm_outputs_with_experts():
    """MiniMax: what is added to is each norm's output; the next norm is given the sum."""
    assert places("minimax", num_local_experts=2, layer_types=["full_attention"] * 2) == [
        ("0.input_layernorm", "embedding", "both"),
        ("0.post_attention_layernorm", "attention", "both"),
        ("1.input_layernorm", "mlp", "both"),
        ("1.post_attention_layernorm", "attention", "both"),
        ("model.norm", "final", "reads"),
    ]


def test_a_stream_that_cannot_be_followed_is_not_guessed_at():
    """Gemma 3n keeps four streams in one tensor."""
    found = places(
        "gemma3n_text",
        laurel_rank=4,
        vocab_size_per_layer_input=64,
        hidden_size_per_layer_input=8,
        num_kv_shared_layers=0,
        layer_types=["full_attention"] * 2,
        activation_sparsity_pattern=[0.0] * 2,
    )
    assert {residual for _, _, residual in found} == {"unknown"}
    roles = {path: role for path, role, _ in found}
    assert roles["0.self_attn.q_norm"] == roles["0.self_attn.k_norm"] == "qk"
    assert roles["0.input_layernorm"] == roles["0.post_attention_layernorm"] == "attention"
    assert roles["0.pre_feedforward_layernorm"] == roles["0.post_feedforward_layernorm"] == "mlp"
    assert roles["0.altup.router_norm"] == "other"
