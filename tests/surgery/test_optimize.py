"""Folding norms into the layers that read them: the same function, fewer operations."""

import copy

import pytest
import torch

import unnorm
from conftest import FAMILIES, tiny_model, tokens
from surgery.architectures import architecture, architecture_tokens
from unnorm import DyT
from unnorm.foundation.errors import ArtefactError, ModelError
from unnorm.norms.derf import Derf
from unnorm.norms.fixed_scale import FixedScale
from unnorm.norms.spec import Norm
from unnorm.surgery import optimize

PRE_NORM = ["gpt2", "gpt_neox", "gpt_neox, sequential", "opt", "llama", "qwen3", "gemma", "phi"]
OTHERS = ["mixtral", "mamba", "gemma2", "olmo2", "bloom", "nanochat", "cohere", "deepseek_v3", "bert"]


@pytest.fixture(params=["CPU", "CUDA"])
def rules(request, monkeypatch):
    """Of both kinds of devices, for what is decided by it; everything is computed on a CPU."""
    if request.param == "CUDA":
        monkeypatch.setattr(optimize, "_biases_are_free", lambda layer: True)
        monkeypatch.setattr(optimize, "as_logistic", lambda module, layers: None)
    return request.param


def relative(found, wanted):
    return float((found.double() - wanted.double()).norm() / wanted.double().norm())


@torch.no_grad()
def outputs(model, ids):
    out = model(ids, output_hidden_states=True)
    return out.logits, out.hidden_states


@pytest.mark.parametrize("spec", [None, DyT(), Derf(alpha="channel"), FixedScale()], ids=str)
@pytest.mark.parametrize("name", PRE_NORM)
def test_outputs_stay_and_the_norms_of_the_blocks_are_folded(name, spec, rules):
    model, ids = architecture(name), architecture_tokens()
    biased = name not in ("llama", "qwen3", "gemma")
    if spec is not None:
        unnorm.swap_(model, spec, calibrate_on=ids)
    logits, hidden = outputs(model, ids)
    report = unnorm.optimize_(model)
    after, hidden_after = outputs(model, ids)
    assert relative(after, logits) < 1e-5
    assert report.difference < 1e-5
    assert all(relative(a, b) < 1e-5 for a, b in zip(hidden_after, hidden, strict=True))
    done = {site.path: site for site in report.sites}
    sites = {site.path: site for site in unnorm.find_sites(model)}
    assert done.keys() == sites.keys()
    for path, site in sites.items():
        inner = site.role in ("attention", "mlp")
        if inner and rules == "CPU" and isinstance(spec, DyT | Derf) and not biased:
            assert "take longer than β" in done[path].reason
            assert (done[path].done, site.kind) == ("left", spec.norm)
            continue
        assert (done[path].done != "left") == inner, done[path]
        assert done[path].reason or inner
        if inner:
            assert site.affine == "none"
            kind = "logistic" if rules == "CPU" and isinstance(spec, DyT) else spec.norm if spec else site.kind
            assert site.kind == ("identity" if isinstance(spec, FixedScale) else kind)
            if isinstance(spec, FixedScale):
                assert done[path].done == "folded away"
    assert all(change.done == "left" for change in unnorm.optimize_(model).sites)  # there is no more to do


@pytest.mark.parametrize("name", OTHERS)
def test_whatever_else_reads_a_norm_is_left_alone(name):
    model, ids = architecture(name), architecture_tokens()
    for spec in (None, FixedScale(), DyT()):
        tried = copy.deepcopy(model)
        if spec is not None:
            unnorm.swap_(tried, spec, calibrate_on=ids, mode="parallel")
        with torch.no_grad():
            wanted = tried(ids).logits
        report = unnorm.optimize_(tried)
        with torch.no_grad():
            assert relative(tried(ids).logits, wanted) < 1e-5
        assert all(change.reason for change in report.sites if change.done == "left")


@pytest.mark.parametrize("family", FAMILIES)
def test_no_hook_is_left_and_hidden_states_can_still_be_asked_for(family):
    model, ids = tiny_model(family), tokens(2, 8)
    unnorm.swap_(model, DyT(), calibrate_on=tokens(16, seed=2))
    unnorm.optimize_(model)
    assert not any(module._forward_hooks for module in model.modules())
    layers = model.config.num_hidden_layers
    for _ in range(2):
        assert len(outputs(model, ids)[1]) == layers + 1
    hooks = [len(module._forward_hooks) for module in model.modules()]
    unnorm.optimize_(model)
    assert [len(module._forward_hooks) for module in model.modules()] == hooks, "what was there before stays"
    assert len(outputs(model, ids)[1]) == layers + 1


def test_reasons_name_what_stands_in_the_way():
    reasons = {c.path: c.reason for c in unnorm.optimize_(architecture("mixtral")).sites}
    assert "experts" in reasons["model.layers.0.post_attention_layernorm"]
    assert "hidden states" in reasons["model.norm"]
    assert not reasons["model.layers.0.input_layernorm"]


@pytest.mark.parametrize("rules", ["CUDA"], indirect=True)
def test_a_bias_comes_only_where_beta_is_not_zero(rules):
    model, ids = architecture("llama"), architecture_tokens()
    assert all(not change.new_biases for change in unnorm.optimize_(copy.deepcopy(model)).sites)
    unnorm.swap_(model, DyT(), calibrate_on=ids)
    first = unnorm.optimize_(model).sites[0]
    assert [path.rsplit(".", 1)[1] for path in first.new_biases] == ["q_proj", "k_proj", "v_proj"]
    assert model.model.layers[0].self_attn.q_proj.bias is not None


@pytest.mark.parametrize("alpha", ["scalar", "channel"])
@pytest.mark.parametrize("batch", [1, 64])
def test_a_dyt_is_written_by_the_logistic_function_on_a_cpu(alpha, batch):
    model, ids = tiny_model("gpt2"), tokens(batch, 8)
    unnorm.swap_(model, DyT(alpha=alpha), calibrate_on=tokens(16, seed=2))
    with torch.no_grad():
        wanted = model.double()(ids).logits
        unnorm.optimize_(model.float())
        assert relative(model(ids).logits, wanted) < 1e-6
    assert {site.kind for site in unnorm.find_sites(model) if site.role != "final"} == {"logistic"}
    half = tiny_model("gpt2")
    unnorm.swap_(half, DyT(alpha=alpha), calibrate_on=tokens(16, seed=2))
    unnorm.optimize_(half.to(torch.bfloat16))
    kinds = {site.kind for site in unnorm.find_sites(half)}
    assert kinds == {"dyt"}, "sums of γ and β would round more in bf16"


@pytest.mark.parametrize("family", FAMILIES)
def test_bf16_is_as_close_to_fp32_as_before(family):
    """Folded weights are rounded once: against the same model in fp32, the error grows by little."""
    model, ids = tiny_model(family), tokens()
    unnorm.swap_(model, DyT(), calibrate_on=tokens(16, seed=2))
    half = copy.deepcopy(model).to(torch.bfloat16)
    exact, before = outputs(model, ids)[0], outputs(half, ids)[0]
    report = unnorm.optimize_(half)
    after = outputs(half, ids)[0]
    assert after.dtype == torch.bfloat16
    assert relative(after, exact) < 1.5 * relative(before, exact)
    assert report.difference < 0.02


@pytest.mark.parametrize("family", FAMILIES)
def test_generation_and_checkpointing_are_as_before(family):
    model, ids = tiny_model(family), tokens(2, 8)
    unnorm.swap_(model, DyT(), calibrate_on=tokens(16, seed=2))
    wanted = model.generate(ids, max_new_tokens=8, do_sample=False)
    unnorm.optimize_(model)
    assert torch.equal(model.generate(ids, max_new_tokens=8, do_sample=False), wanted)
    plain = torch.autograd.grad(model(ids).logits.square().sum(), list(model.parameters()), allow_unused=True)
    model.gradient_checkpointing_enable()
    model.train()
    saved = torch.autograd.grad(model(ids).logits.square().sum(), list(model.parameters()), allow_unused=True)
    for a, b in zip(plain, saved, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-3)


def test_what_cannot_be_undone_is_said(tmp_path):
    model = tiny_model("gpt2")
    unnorm.swap_(model, DyT(), calibrate_on=tokens())
    unnorm.optimize_(model)
    with pytest.raises(ModelError, match="optimized"):
        unnorm.unswap_(model)
    with pytest.raises(ArtefactError, match="optimize what unnorm"):
        unnorm.save(model, tmp_path / "out")


def test_training_and_adapters_are_refused():
    from peft import LoraConfig, get_peft_model

    with pytest.raises(ModelError, match="eval"):
        unnorm.optimize_(tiny_model("gpt2").train())
    adapted = get_peft_model(tiny_model("gpt_neox"), LoraConfig(r=2, target_modules="all-linear"))
    with pytest.raises(ModelError, match="merge"):
        unnorm.optimize_(adapted.eval())


def test_a_model_that_reads_its_norms_parameters_itself_is_put_back():
    model, ids = tiny_model("gpt_neox"), tokens()
    block = model.gpt_neox.layers[1].mlp
    weight = model.gpt_neox.layers[0].input_layernorm
    block.register_forward_pre_hook(lambda m, args: args[0] + 0 * model.get_submodule(NORM).weight.sum())
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    report = unnorm.optimize_(model)
    assert all(change.done == "left" and change.reason for change in report.sites)
    assert model.get_submodule(NORM) is weight
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not any(isinstance(module, Norm) for module in model.modules())
    assert model(ids).logits.isfinite().all()


NORM = "gpt_neox.layers.0.input_layernorm"


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox"])
def test_with_the_head_no_norm_is_left_of_fixed_scales(family):
    model = tiny_model(family)
    unnorm.swap_(model, FixedScale(), calibrate_on=tokens())
    embedding = model.get_input_embeddings().weight.detach().clone()
    with torch.no_grad():
        before = model(tokens()).logits
    report = unnorm.optimize_(model, head=True)
    assert {site.done for site in report.sites} == {"folded away"}
    with torch.no_grad():
        torch.testing.assert_close(model(tokens()).logits, before, rtol=1e-4, atol=1e-4)
    assert torch.equal(model.get_input_embeddings().weight, embedding)
    left = [model.get_submodule(site.path) for site in report.sites]
    assert all(norm.spec.norm == "identity" and not list(norm.parameters()) for norm in left)


def test_a_head_into_which_nothing_goes_stays_tied():
    model = tiny_model("llama")
    unnorm.swap_(model, DyT(affine=False), calibrate_on=tokens())
    assert unnorm.optimize_(model, head=True).sites[-1].done == "left"
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
