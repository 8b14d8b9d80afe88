import pytest
import torch

import unnorm
from conftest import FAMILIES, tiny_model, tokens
from unnorm import DyT, FixedScale
from unnorm.foundation.errors import DataError, ModelError, SettingsError, SiteError
from unnorm.norms.curve import CurveNorm


@pytest.mark.parametrize("family", FAMILIES)
def test_swap_replaces_every_site_and_unswap_gives_the_model_back(family):
    model = tiny_model(family)
    ids = tokens()
    before = model(ids).logits
    report = unnorm.swap_(model, DyT(), calibrate_on=None)
    assert len(report.sites) == 5
    assert {site.kind for site in unnorm.find_sites(model)} == {"dyt"}
    assert report.calibration is None
    assert not torch.allclose(model(ids).logits, before)
    unnorm.unswap_(model)
    torch.testing.assert_close(model(ids).logits, before, rtol=0, atol=0)
    with pytest.raises(ModelError, match="nothing to undo"):
        unnorm.unswap_(model)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_old_norms_come_back_in_the_dtype_and_mode_that_the_model_is_in_by_then(family):
    model, wanted = tiny_model(family), tiny_model(family).bfloat16()
    unnorm.swap_(model, DyT(), calibrate_on=None)
    model.bfloat16().train()
    unnorm.unswap_(model)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert all(module.training for module in model.modules())
    torch.testing.assert_close(model.eval()(tokens()).logits, wanted(tokens()).logits, rtol=0, atol=0)


@pytest.mark.parametrize(("family", "centres"), [("gpt2", True), ("gpt_neox", True), ("llama", False)])
def test_a_fixed_scale_takes_the_mean_off_where_the_norm_it_replaces_does(family, centres):
    model = tiny_model(family)
    report = unnorm.swap_(model, {"mlp": FixedScale(center=not centres), "*": FixedScale()}, calibrate_on=tokens())
    assert {site.role: report.specs[site.path].center for site in report.sites} == {
        "attention": centres, "mlp": not centres, "final": centres,
    }  # fmt: skip
    ids = tokens()
    norm, seen = model.get_submodule(report.sites[0].path), []
    norm.register_forward_hook(lambda module, args, out: seen.append((args[0], out)))
    model(ids)
    ((x, out),) = seen
    lifted = norm(x + 1.0)  # a constant for all channels of a token is its mean's alone
    assert torch.allclose(lifted, out, atol=1e-4) == centres


def test_a_swapped_model_is_not_swapped_twice():
    model = tiny_model("gpt2")
    unnorm.swap_(model, DyT(), calibrate_on=None)
    with pytest.raises(ModelError, match="swapped already"):
        unnorm.swap_(model, DyT(), calibrate_on=None)


def test_calibrate_on_must_be_said():
    with pytest.raises(TypeError, match="calibrate_on"):
        unnorm.swap_(tiny_model("gpt2"), DyT())


def test_a_name_is_no_norm_and_the_message_says_what_is():
    with pytest.raises(SettingsError, match=r"unnorm\.DyT\(\).*not 'dyt'"):
        unnorm.swap_(tiny_model("gpt2"), "dyt", calibrate_on=None)


def swapped(model) -> set[str]:
    return {name for name, module in model.named_modules() if isinstance(module, CurveNorm)}


def test_patterns_path_before_role_before_glob_first_match_wins():
    model = tiny_model("gpt_neox")
    special = "gpt_neox.layers.1.input_layernorm"
    unnorm.swap_(
        model,
        {
            special: None,
            "attention": DyT(alpha="channel"),
            "gpt_neox.layers.*": DyT(),
            "re:.*final.*": DyT(bias=False),
        },
        calibrate_on=tokens(),
    )
    assert swapped(model) == {
        "gpt_neox.layers.0.input_layernorm",
        "gpt_neox.layers.0.post_attention_layernorm",
        "gpt_neox.layers.1.post_attention_layernorm",
        "gpt_neox.final_layer_norm",
    }
    assert model.gpt_neox.layers[0].input_layernorm.alpha.shape == (32,)
    assert model.gpt_neox.layers[0].post_attention_layernorm.alpha.shape == (1,)
    assert model.gpt_neox.final_layer_norm.bias is None


@pytest.mark.parametrize(
    "patterns", [{"nowhere.*": DyT()}, {"attention": DyT(), "qk": DyT()}, {"re:(": DyT()}, {"*": None}]
)
def test_a_pattern_that_matches_nothing_lists_the_sites_and_changes_nothing(patterns):
    model = tiny_model("llama")
    with pytest.raises(SiteError) as caught:
        unnorm.swap_(model, patterns, calibrate_on=None)
    if "re:(" not in patterns:
        assert "model.layers.0.input_layernorm" in str(caught.value)
    assert not swapped(model)


def test_a_pattern_shadowed_by_an_earlier_one_is_no_error():
    model = tiny_model("llama")
    unnorm.swap_(model, {"*": DyT(), "final": None}, calibrate_on=None)
    assert len(swapped(model)) == 5


@pytest.mark.parametrize(
    "bad", [torch.zeros(0, 4, dtype=torch.long), torch.rand(2, 4), torch.arange(4), [], {"labels": tokens()}]
)
def test_calibration_data_that_cannot_be_used(bad):
    model = tiny_model("gpt2")
    with pytest.raises(DataError):
        unnorm.swap_(model, DyT(), calibrate_on=bad)
    assert not swapped(model)


def test_swapping_keeps_train_mode_and_bf16():
    model = tiny_model("llama").bfloat16().train()
    unnorm.swap_(model, DyT(), calibrate_on=tokens())
    assert model.training
    assert model.model.norm.training
    assert model.model.norm.weight.dtype == torch.float32
    assert model(tokens()).logits.dtype == torch.bfloat16


def test_a_swapped_model_trains_in_a_users_own_trainer(tmp_path):
    from transformers import Trainer, TrainingArguments

    model = tiny_model("gpt2")
    unnorm.swap_(model, DyT(), calibrate_on=tokens())
    rows = [{"input_ids": row, "labels": row} for row in tokens(16)]
    before = model.transformer.ln_f.alpha.item()
    arguments = TrainingArguments(
        output_dir=str(tmp_path),
        max_steps=4,
        per_device_train_batch_size=4,
        report_to=[],
        save_strategy="no",
        use_cpu=True,
        learning_rate=1e-2,
        disable_tqdm=True,
        logging_strategy="no",
    )
    Trainer(model, arguments, train_dataset=rows).train()
    assert model.transformer.ln_f.alpha.item() != before
    unnorm.save(model, tmp_path / "out")
    ids = tokens()
    torch.testing.assert_close(unnorm.load(tmp_path / "out")(ids).logits, model.eval()(ids).logits, rtol=0, atol=1e-6)
