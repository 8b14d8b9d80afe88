"""Recovery: what is asked for learns, towards the original, relatively, and never to a worse end."""

import copy
import json

import pytest
import torch

import unnorm
from conftest import FAMILIES, packed_positions, tiny_model, tokens
from unnorm import DyT
from unnorm.foundation.errors import ArtefactError, DataError, Interrupted, ModelError, NonFiniteError, SettingsError
from unnorm.surgery.swap import keep_base_, record_of
from unnorm.tuning.recover import RecoveryRun, RecoveryText, distil_
from unnorm.tuning.recover_settings import recover_settings
from unnorm.tuning.trainer import TokenTrainer

QUICK = {"tokens": 20 * 256, "batch_tokens": 256, "precision": "fp32", "quiet": True}


def swapped(family="gpt2", bare=False, **options):
    original = tiny_model(family)
    model = copy.deepcopy(original)
    unnorm.swap_(model, DyT(), calibrate_on=None if bare else tokens(16), **options)
    return model, original


def state_of(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def changed_in(model, before):
    return {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}


@torch.no_grad()
def said_by(model, rows, length=24):
    """Token ids [rows, length] that the model itself finds likely: there is a loss to lose on them."""
    ids = tokens(rows, 1)
    generator = torch.Generator().manual_seed(0)
    while ids.shape[1] < length:
        likely = (3 * model(ids).logits[:, -1]).softmax(-1)
        ids = torch.cat([ids, torch.multinomial(likely, 1, generator=generator)], 1)
    return ids


@pytest.mark.parametrize("train", ["norms", "lora", "all"])
@pytest.mark.parametrize("family", FAMILIES)
def test_recovery_comes_closer_and_trains_what_was_asked_for(family, train):
    model, original = swapped(family, bare=True)
    flags = [p.requires_grad for p in model.parameters()]
    before, theirs = state_of(model), state_of(original)
    report = unnorm.recover_(model, original, tokens(64), train=train, **QUICK)
    assert report.kept
    assert report.kl_after < report.kl_before
    assert report.steps == len(report.losses)
    assert report.tokens >= 20 * 256
    assert report.curve[0]["gap"] == report.gap_before
    sites = tuple(site.path + "." for site in unnorm.find_sites(model))
    changed = changed_in(model, before)
    norms = {name for name in changed if name.startswith(sites)}
    assert norms
    assert (changed == norms) == (train == "norms")
    assert model.state_dict().keys() == before.keys()
    assert changed_in(original, theirs) == set()
    assert [p.requires_grad for p in model.parameters()] == flags
    assert all(p.grad is None for p in model.parameters())
    assert not model.training


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_corrected_layers_learn_too_where_asked_for(dtype):
    original = tiny_model("llama").to(dtype)
    model = copy.deepcopy(original)
    unnorm.swap_(model, DyT(), calibrate_on=tokens(16), correct="all")
    record = record_of(model)
    for path in record.corrected:  # a random model is corrected too well for anything to be left
        torch.nn.init.normal_(model.get_submodule(path).weight, std=0.05)
    before = state_of(model)
    unnorm.recover_(model, original, tokens(64), train="corrected", **QUICK)
    learners = tuple(path + "." for path in [site.path for site in record.sites] + record.corrected)
    changed = changed_in(model, before)
    assert {name for name in changed if name.startswith(tuple(path + "." for path in record.corrected))}
    assert all(name.startswith(learners) for name in changed)
    assert {p.dtype for p in model.parameters()} == {dtype, torch.float32}
    unnorm.unswap_(model)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), original.parameters(), strict=True))


def test_a_bf16_model_stays_bf16_and_small_steps_add_up():
    original = tiny_model("llama").bfloat16()
    model = copy.deepcopy(original)
    unnorm.swap_(model, DyT(), calibrate_on=tokens(16))
    before = {name: p.dtype for name, p in model.named_parameters()}
    report = unnorm.recover_(model, original, tokens(64), train="all", learning_rate=1e-3, **QUICK)
    assert {name: p.dtype for name, p in model.named_parameters()} == before
    assert report.kl_after < report.kl_before


def test_the_same_seed_gives_the_same_end():
    ends = []
    for seed in (0, 0, 1):
        model, original = swapped()
        unnorm.recover_(model, original, tokens(64), train="norms", seed=seed, **QUICK)
        ends.append(model.transformer.ln_f.weight.detach().clone())
    assert torch.equal(ends[0], ends[1])
    assert not torch.equal(ends[0], ends[2])


@pytest.mark.parametrize("train", ["norms", "all", "lora"])
def test_what_got_worse_is_put_back_and_said(train):
    model, original = swapped()
    before = state_of(model)
    rates = {"learning_rate": 3.0, "norm_learning_rate": 3.0}
    report = unnorm.recover_(model, original, tokens(64), train=train, **rates, **{**QUICK, "tokens": 3 * 256})
    assert not report.kept
    assert report.kl_after > report.kl_before
    assert "put back" in report.describe()
    assert changed_in(model, before) == set()


@pytest.mark.parametrize("train", ["norms", "lora", "all"])
def test_a_loss_that_is_no_number_names_the_step_and_leaves_the_start(train):
    model, original = swapped()
    before = state_of(model)
    with pytest.raises(NonFiniteError, match="step"):
        unnorm.recover_(model, original, tokens(64), train=train, learning_rate=1e30, norm_learning_rate=1e30, **QUICK)
    assert changed_in(model, before) == set()
    assert not any("parametrizations" in name for name, _ in model.named_modules())
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize(
    ("spec", "advice"),
    [(DyT(), "Lower the learning rate"), (unnorm.FixedScale(center=False), "fixedscale bounds none")],
)
def test_what_may_have_run_away_is_named_where_nothing_bounds_it(spec, advice):
    original = tiny_model("llama")
    model = copy.deepcopy(original)
    unnorm.swap_(model, spec, calibrate_on=tokens(16))
    with pytest.raises(NonFiniteError, match=advice):
        unnorm.recover_(model, original, tokens(64), train="all", learning_rate=1e30, **QUICK)


@pytest.mark.parametrize("train", ["norms", "lora", "all"])
def test_an_interrupted_recovery_goes_on_bit_for_bit(train, tmp_path, monkeypatch):
    options = {**QUICK, "train": train}
    whole, original = swapped("llama")
    expected = unnorm.recover_(whole, original, tokens(64), folder=tmp_path / "whole", **options)
    model, _ = swapped("llama")
    before = state_of(model)
    appended = TokenTrainer._save_checkpoint

    def stop_after_two(self, *args):
        appended(self, *args)
        if self.state.global_step >= 4:
            raise KeyboardInterrupt

    monkeypatch.setattr(TokenTrainer, "_save_checkpoint", stop_after_two)
    with pytest.raises((Interrupted, KeyboardInterrupt)):
        unnorm.recover_(model, original, tokens(64), folder=tmp_path / "cut", **options)
    assert changed_in(model, before) == set()
    monkeypatch.undo()
    report = unnorm.recover_(model, original, tokens(64), folder=tmp_path / "cut", **options)
    assert changed_in(model, state_of(whole)) == set()
    assert report.losses == expected.losses
    assert report.curve == expected.curve
    steps = [json.loads(line)["step"] for line in (tmp_path / "cut" / "steps.jsonl").read_text().splitlines()]
    assert steps == list(range(1, expected.steps + 1))


def test_a_folder_of_another_recovery_is_refused(tmp_path):
    model, original = swapped()
    unnorm.recover_(model, original, tokens(64), folder=tmp_path, **QUICK)
    for text, change in ((tokens(64, seed=9), {}), (tokens(64), {"learning_rate": 1e-6}), (tokens(64), {"seed": 3})):
        another, original = swapped()
        before = {name: tensor.clone() for name, tensor in another.state_dict().items()}
        with pytest.raises(ArtefactError, match="another run"):
            unnorm.recover_(another, original, text, folder=tmp_path, **{**QUICK, **change})
        assert all(torch.equal(tensor, before[name]) for name, tensor in another.state_dict().items())


def test_what_a_run_without_a_checkpoint_measured_is_measured_again(tmp_path):
    (tmp_path / "evaluations.jsonl").write_text('{"step":0,"kl":99.0}\n')
    model, original = swapped()
    report = unnorm.recover_(model, original, tokens(64), folder=tmp_path, **QUICK)
    assert report.kl_before < 50


def test_a_run_that_goes_on_shows_the_gap_that_it_had_come_to(tmp_path, monkeypatch):
    options = {**QUICK, "train": "all", "quiet": False}
    model, original = swapped("llama")
    shown = []
    monkeypatch.setattr("unnorm.tuning.trainer.Bar.advance", lambda bar, count=1, note="": shown.append(note))
    saved = TokenTrainer._save_checkpoint

    def stop(self, *args):
        saved(self, *args)
        raise KeyboardInterrupt

    monkeypatch.setattr(TokenTrainer, "_save_checkpoint", stop)
    with pytest.raises(KeyboardInterrupt):
        unnorm.recover_(model, original, tokens(64), folder=tmp_path, **options)
    log = (tmp_path / "evaluations.jsonl").read_text().splitlines()
    gaps = [f"gap {json.loads(line)['gap']:+.1%}" for line in log]
    assert len(set(gaps)) > 1
    monkeypatch.setattr(TokenTrainer, "_save_checkpoint", saved)
    shown.clear()
    unnorm.recover_(model, original, tokens(64), folder=tmp_path, **options)
    assert next(note for note in shown if "gap" in note).endswith(gaps[-1])


def test_a_target_stops_early_and_a_second_call_does_not_go_on_past_it(tmp_path):
    model, original = swapped(bare=True)
    text = said_by(original, 64)
    options = {**QUICK, "train": "all", "learning_rate": 3e-3}
    start = unnorm.recover_(copy.deepcopy(model), original, text, **{**options, "tokens": 256})
    target = 0.7 * start.gap_before
    options["target"] = target
    assert start.gap_before > target > 0
    report = unnorm.recover_(model, original, text, folder=tmp_path / "run", **options)
    assert report.reached_target
    assert report.gap_after <= target
    assert report.tokens < options["tokens"]
    again, _ = swapped(bare=True)
    second = unnorm.recover_(again, original, text, folder=tmp_path / "run", **options)
    assert second.steps == report.steps
    assert changed_in(again, state_of(model)) == set()


def test_dropout_is_off_while_a_teacher_is_matched():
    from transformers import AutoModelForCausalLM

    from conftest import tiny_config

    ends = []
    for rate in (0.0, 0.5):
        config = tiny_config("gpt2")
        config.resid_pdrop = config.attn_pdrop = config.embd_pdrop = rate
        torch.manual_seed(0)
        original = AutoModelForCausalLM.from_config(config).eval()
        model = copy.deepcopy(original)
        unnorm.swap_(model, DyT(), calibrate_on=tokens(16))
        ends.append(unnorm.recover_(model, original, tokens(64), train="all", **QUICK).losses)
    assert ends[0] == ends[1]


def test_padded_and_packed_rows_are_taken():
    model, original = swapped("llama")
    ids = tokens(32)
    mask = torch.ones_like(ids)
    mask[:, 20:] = 0
    positions = torch.cat([torch.arange(16), torch.arange(16)])[None].repeat(32, 1)
    options = {**QUICK, "train": "norms", "tokens": 4 * 256}
    for batch in ({"input_ids": ids, "attention_mask": mask}, {"input_ids": ids, "position_ids": positions}):
        report = unnorm.recover_(model, original, [batch, batch], **options)
        assert report.kept == (report.kl_after <= report.kl_before)
    unnorm.recover_(model, original, [ids[:, :9], ids[:, :30]], **options)


@pytest.mark.parametrize(
    ("train", "batch_tokens", "weights", "norms"),
    [
        ("all", 16_384, 4e-4, 5e-3),
        ("all", 4_096, 2e-4, 2.5e-3),
        ("lora", 1_024, 1e-3, 2e-3),
        ("all", 65_536, 4e-4, 5e-3),
        ("norms", 1_024, 2e-2, 2e-2),
    ],
)
def test_default_rates_of_all_weights_go_with_the_square_root_of_the_step(train, batch_tokens, weights, norms):
    training = recover_settings(train=train, batch_tokens=batch_tokens).training(row_tokens=64)
    assert (training.learning_rate, training.norm_learning_rate) == pytest.approx((weights, norms))
    given = recover_settings(train=train, batch_tokens=batch_tokens, learning_rate=1e-3).training(row_tokens=64)
    assert (given.learning_rate, given.norm_learning_rate) == pytest.approx((1e-3, norms))


def test_bad_input():
    model, original = swapped()
    with pytest.raises(ModelError, match="Swap it first"):
        unnorm.recover_(original, copy.deepcopy(original), tokens(8), quiet=True)
    with pytest.raises(ModelError, match="unswapped model"):
        unnorm.recover_(model, model, tokens(8), quiet=True)
    with pytest.raises(ModelError, match="not the model that was swapped"):
        unnorm.recover_(model, tiny_model("gpt2", seed=1), tokens(8), quiet=True)
    with pytest.raises(DataError, match="more than one row"):
        unnorm.recover_(model, original, tokens(1), quiet=True)
    for wrong in ({"precision": "fp8"}, {"tokens": 0}, {"target": -0.1}, {"train": "some"}, {"steps": 3}):
        with pytest.raises(SettingsError, match=next(iter(wrong))):
            unnorm.recover_(model, original, tokens(8), quiet=True, **wrong)
    with pytest.raises(ModelError, match="none were"):
        unnorm.recover_(model, original, tokens(8), train="corrected", quiet=True)


def test_by_cross_entropy_it_learns_the_text_from_as_many_tokens():
    model, original = swapped()
    rows = said_by(original, 64)
    distilled = unnorm.recover_(copy.deepcopy(model), original, rows, **QUICK)
    report = unnorm.recover_(model, original, rows, objective="ce", **QUICK)
    assert (report.tokens, report.steps, report.kl_before) == (distilled.tokens, distilled.steps, distilled.kl_before)
    assert report.objective == "ce"
    assert sum(report.losses[-5:]) < sum(report.losses[:5])
    assert report.losses[0] > distilled.losses[0], "nats of the text, and of the distance to the original"
    assert report.describe().startswith("trained by cross-entropy (all) from")
    with pytest.raises(SettingsError, match="recovery: target: a target is a gap to the original"):
        unnorm.recover_(model, original, rows, objective="ce", target=0.01, **QUICK)


def test_by_cross_entropy_it_is_kept_where_it_leaves_the_original():
    model, original = swapped()
    wild = {**QUICK, "learning_rate": 0.05, "norm_learning_rate": 0.05}
    kept = unnorm.recover_(copy.deepcopy(model), original, tokens(64), objective="ce", **wild)
    assert kept.kept
    assert kept.kl_after > kept.kl_before
    assert not unnorm.recover_(model, original, tokens(64), **wild).kept


def test_pretrained_norms_that_stay_learn_relatively(tmp_path):
    original = tiny_model("llama")
    model = copy.deepcopy(original)
    keep_base_(model)
    with pytest.raises(ModelError, match="no swapped norms"):
        unnorm.recover_(model, original, tokens(16), **QUICK)
    rate = 0.01
    settings = recover_settings(
        tokens=256, batch_tokens=256, train="norms", objective="ce", norm_learning_rate=rate, warmup=0, precision="fp32"
    )
    rows = [{"input_ids": row[None]} for row in tokens(8)]
    text = RecoveryText(rows, lambda some: {"input_ids": torch.cat([row["input_ids"] for row in some])}, 32, rows[:2])
    before = state_of(model)
    report = distil_(model, original, text, settings, RecoveryRun(tmp_path, "run", quiet=True), seed=0)
    norms = {f"{site.path}.weight" for site in unnorm.find_sites(original)}
    assert report.parameters == sum(before[name].numel() for name in norms)
    assert report.steps == 1
    assert changed_in(model, before) == norms
    for name in norms:  # AdamW's first step is as long as the rate, whatever the gradient
        share = (model.state_dict()[name] / before[name] - 1).abs()
        large = before[name].abs() > 0.1
        torch.testing.assert_close(share[large], torch.full_like(share[large], rate), rtol=0.02, atol=0)


def test_texts_of_long_packed_rows_learn_the_same_without_a_mask(monkeypatch, attention_calls):
    packed = {"input_ids": tokens(64, 48), "position_ids": packed_positions(*[(20, 28)] * 64)}
    reports = []
    for longest in (48, 49):
        monkeypatch.setattr("unnorm.surgery.packed_attention._LONG", longest)
        model, original = swapped("llama")
        attention_calls.clear()
        reports.append(unnorm.recover_(model, original, packed, train="norms", **QUICK))
        without = {(20, 20, False), (28, 28, False)}
        assert set(attention_calls) == (without if longest == 48 else {(48, 48, True)})
        assert model.config._attn_implementation == original.config._attn_implementation == "sdpa"
    assert reports[0].losses == pytest.approx(reports[1].losses, rel=1e-3)
    assert reports[0].kl_after == pytest.approx(reports[1].kl_after, rel=1e-2)
