import pytest
import torch

import unnorm
from conftest import FAMILIES, tiny_model, tokens
from unnorm import DyT
from unnorm.foundation.errors import SettingsError
from unnorm.tuning.settings import LoraSettings
from unnorm.tuning.strategies import apply_strategy


def prepared(family, arm, strategy, lora=None, seed=0, sites=None):
    model = tiny_model(family)
    if arm != "original":
        unnorm.swap_(model, DyT(), calibrate_on=tokens() if arm == "dyt" else None)
    paths = [site.path for site in unnorm.find_sites(model)]
    return apply_strategy(
        model, strategy, site_paths=sites if sites is not None else paths, lora=lora or LoraSettings(), seed=seed
    )


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("arm", ["original", "dyt-bare", "dyt"])
def test_rule_02_selective_trains_lora_and_every_norm_site_and_nothing_else(family, arm):
    model, trainable = prepared(family, arm, "selective")
    found = {name: p for name, p in model.named_parameters() if p.requires_grad}
    lora = {name for name in found if ".lora_A." in name or ".lora_B." in name}
    norm = set(found) - lora
    assert len(norm) == 5 * {"original": 1 if family == "llama" else 2, "dyt": 3, "dyt-bare": 3}[arm]
    assert all(".modules_to_save.default." in name for name in norm)
    per_site = {"original": 32 if family == "llama" else 64}.get(arm, 65)
    assert trainable.parameters == {"lora": sum(found[name].numel() for name in lora), "norm": 5 * per_site}
    assert trainable.trainable_parameters == sum(p.numel() for p in found.values())
    assert f"{5 * per_site:,} norm" in trainable.describe()


@pytest.mark.parametrize("family", FAMILIES)
def test_frozen_trains_lora_alone_and_full_trains_everything(family):
    model, trainable = prepared(family, "dyt", "frozen")
    assert all(".lora_" in name for name, p in model.named_parameters() if p.requires_grad)
    assert set(trainable.parameters) == {"lora"}
    model, trainable = prepared(family, "dyt", "full")
    assert all(p.requires_grad for p in model.parameters())
    assert trainable.trainable_parameters == trainable.total_parameters


def test_rule_03_a_lora_target_that_exists_nowhere_is_an_error():
    with pytest.raises(SettingsError, match="query_key_value"):
        prepared("gpt_neox", "dyt", "frozen", LoraSettings(targets=["query_key_value", "q_proj"]))


def test_rule_03_the_head_is_no_automatic_target():
    model, _ = prepared("llama", "dyt", "frozen")
    wrapped = {name.split(".lora_A")[0].rsplit(".", 1)[-1] for name, _ in model.named_parameters() if ".lora_A" in name}
    assert wrapped == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


def test_rule_04_a_subset_of_sites_is_just_that_subset():
    model, trainable = prepared("llama", "dyt", "selective", sites=["model.norm"])
    assert trainable.parameters["norm"] == 65
    assert [n for n, p in model.named_parameters() if p.requires_grad and "lora" not in n] == trainable.names["norm"]


@pytest.mark.parametrize("strategy", ["frozen", "selective"])
def test_loras_start_depends_on_the_seed_alone(strategy):
    start = {}
    for arm in ("original", "dyt"):
        model, trainable = prepared("gpt_neox", arm, strategy, seed=3)
        parameters = dict(model.named_parameters())
        start[arm] = [parameters[name] for name in trainable.names["lora"]]
    assert all(torch.equal(a, b) for a, b in zip(start["original"], start["dyt"], strict=True))


def test_rule_17_what_trains_is_fp32_in_a_bf16_model():
    model = tiny_model("llama").bfloat16()
    paths = [site.path for site in unnorm.find_sites(model)]
    model, _ = apply_strategy(model, "selective", site_paths=paths, lora=LoraSettings(), seed=0)
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
