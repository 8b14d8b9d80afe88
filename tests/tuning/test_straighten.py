"""Recovery that bends curves straight: fixed scales at the end, or the start, and bit for bit where it goes on."""

import copy
import json

import pytest
import torch

import unnorm
from conftest import FAMILIES, tiny_model, tokens
from unnorm import DyT
from unnorm.foundation.errors import Interrupted, ModelError, NonFiniteError, SettingsError, SiteError
from unnorm.norms.dyt import DyTNorm
from unnorm.norms.fixed_scale import FixedScaleNorm
from unnorm.surgery.swap import record_of
from unnorm.tuning import distance, recover
from unnorm.tuning.recover_settings import recover_settings
from unnorm.tuning.relative import relative
from unnorm.tuning.straighten import Straightening, bent_sites
from unnorm.tuning.trainer import TokenTrainer

QUICK = {"tokens": 20 * 256, "batch_tokens": 256, "precision": "fp32", "quiet": True, "straighten": 0.6}


def swapped(family="llama", spec=None, bare=False):
    original = tiny_model(family)
    model = copy.deepcopy(original)
    unnorm.swap_(model, spec or DyT(alpha="channel"), calibrate_on=None if bare else tokens(16))
    return model, original


def norms_of(model):
    return [model.get_submodule(path) for path in record_of(model).specs]


@pytest.mark.parametrize("train", ["norms", "lora", "all"])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_curve_ends_as_a_fixed_scale_near_the_original(family, train, tmp_path):
    model, original = swapped(family)
    report = unnorm.recover_(model, original, tokens(64), train=train, folder=tmp_path / "run", **QUICK)
    assert all(type(norm) is FixedScaleNorm for norm in norms_of(model))
    assert report.straightened == len(norms_of(model)) == 5
    assert report.kept
    assert "5 curves are fixed scales now" in report.describe()
    # the norms were all but straight when the last step was measured
    assert report.kl_after == pytest.approx(report.curve[-1]["kl"], rel=0.05)
    unnorm.save(model, tmp_path / "saved")
    loaded = unnorm.load(tmp_path / "saved")
    assert {spec.norm for spec in record_of(loaded).specs.values()} == {"fixedscale"}
    ids = tokens(2)
    torch.testing.assert_close(loaded(ids).logits, model(ids).logits)


def test_curves_bend_at_every_step_and_then_stay(tmp_path):
    model, original = swapped()
    unnorm.recover_(model, original, tokens(64), train="lora", norm_learning_rate=1e-9, folder=tmp_path, **QUICK)
    alphas = [
        next(iter(json.loads(line)["alpha"].values())) for line in (tmp_path / "steps.jsonl").read_text().splitlines()
    ]
    ratios = [alpha / alphas[0] for alpha in alphas]
    assert ratios == pytest.approx([64 ** -min(step / 20 / 0.6, 1) for step in range(20)], rel=1e-3)


def test_curves_stay_while_the_model_recovers_before(tmp_path):
    model, original = swapped()
    options = {**QUICK, "straighten": 0.9, "straighten_after": 0.5, "train": "lora", "norm_learning_rate": 1e-9}
    unnorm.recover_(model, original, tokens(64), folder=tmp_path, **options)
    plain, _ = swapped()
    same = {key: value for key, value in options.items() if not key.startswith("straighten")}
    unnorm.recover_(plain, original, tokens(64), folder=tmp_path / "plain", **same)
    steps, others = (
        [json.loads(line) for line in (folder / "steps.jsonl").read_text().splitlines()]
        for folder in (tmp_path, tmp_path / "plain")
    )
    assert [step["loss"] for step in steps[:10]] == [step["loss"] for step in others[:10]]
    assert steps[10]["loss"] > others[10]["loss"], "sizes count from here on"
    alphas = [next(iter(step["alpha"].values())) for step in steps]
    expected = [64 ** -min(max(step / 20 - 0.5, 0) / 0.4, 1) for step in range(20)]
    assert [alpha / alphas[0] for alpha in alphas] == pytest.approx(expected, rel=1e-3)
    assert all(type(norm) is FixedScaleNorm for norm in norms_of(model))


def test_held_out_rows_without_numbers_are_named_and_the_rest_is_kept(monkeypatch):
    model, original = swapped()
    held_out = tokens(8, seed=3)
    poison = int(held_out[2, 5])
    assert (held_out == poison).any(1).sum() < 8
    bad = int((held_out == poison).any(1).sum())
    placed = recover.place_

    def endless(module, args, out):
        return out.masked_fill((args[0] == poison)[..., None], float("inf"))

    def broken(model, norms):
        curves = placed(model, norms)
        if any(isinstance(norm, FixedScaleNorm) for norm in norms.values()):
            model.get_input_embeddings().register_forward_hook(endless)
        return curves

    monkeypatch.setattr(recover, "place_", broken)
    report = unnorm.recover_(model, original, tokens(64), held_out=held_out, train="all", **QUICK)
    assert report.broken == bad
    assert torch.tensor(report.gap_after).isfinite()
    assert report.held_out_tokens == (8 - bad) * (held_out.shape[1] - 1)
    assert f"in {bad} held-out rows" in report.describe()
    assert "not usable yet" in report.describe()


def test_a_straight_model_learns_on_as_curves_and_ends_in_fixed_scales():
    model, original = swapped(spec=unnorm.FixedScale(center=False), bare=True)
    kinds = []

    def look(module, args):
        kinds.append(type(module))

    handle = torch.nn.modules.module.register_module_forward_pre_hook(look)
    try:
        report = unnorm.recover_(model, original, tokens(64), train="norms", **QUICK)
    finally:
        handle.remove()
    assert report.kl_after < report.kl_before
    assert DyTNorm in {kind.__mro__[1] for kind in kinds} | set(kinds), "what runs away is capped"
    assert all(type(norm) is FixedScaleNorm for norm in norms_of(model))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(NonFiniteError):
        unnorm.recover_(model, original, tokens(64), train="all", learning_rate=1e30, **QUICK)
    assert all(type(norm) is FixedScaleNorm for norm in norms_of(model))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_an_interrupted_one_goes_on_bit_for_bit(tmp_path, monkeypatch):
    options = {**QUICK, "train": "lora"}
    whole, original = swapped()
    expected = unnorm.recover_(whole, original, tokens(64), folder=tmp_path / "whole", **options)
    model, _ = swapped()
    saved = TokenTrainer._save_checkpoint

    def stop_at_eight(self, *args, **kwargs):
        saved(self, *args, **kwargs)
        if self.state.global_step == 8:
            raise Interrupted

    monkeypatch.setattr(TokenTrainer, "_save_checkpoint", stop_at_eight)
    with pytest.raises(Interrupted):
        unnorm.recover_(model, original, tokens(64), folder=tmp_path / "cut", **options)
    assert all(type(norm) is DyTNorm for norm in norms_of(model))
    monkeypatch.setattr(TokenTrainer, "_save_checkpoint", saved)
    report = unnorm.recover_(model, original, tokens(64), folder=tmp_path / "cut", **options)
    assert report.losses == expected.losses
    states = whole.state_dict(), model.state_dict()
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_one_that_stopped_after_its_last_step_ends_the_same(tmp_path):
    (first, original), (second, _) = swapped(), swapped()
    for model in (first, second):  # the second finds a checkpoint of the last step, and has nothing left to learn
        report = unnorm.recover_(model, original, tokens(64), train="lora", folder=tmp_path, **QUICK)
    assert report.straightened == 5
    found = second.state_dict()
    assert all(torch.equal(tensor, found[name]) for name, tensor in first.state_dict().items())


def test_a_folder_that_cannot_be_made_leaves_the_fixed_scales(tmp_path):
    model, original = swapped(spec=unnorm.FixedScale())
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        unnorm.recover_(model, original, tokens(64), folder=tmp_path / "file" / "run", **QUICK)
    assert all(type(norm) is FixedScaleNorm for norm in norms_of(model))


@pytest.mark.parametrize("factor", [float("inf"), 1e3])
def test_a_straight_model_of_which_nothing_is_left_is_put_back(monkeypatch, factor):
    model, original = swapped()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    measured = distance.compare

    def ruined(learner, *rest):
        found = measured(learner, *rest)
        straight = any(isinstance(module, FixedScaleNorm) for module in learner.modules())
        return found._replace(loss=found.loss * factor) if straight else found

    monkeypatch.setattr(distance, "compare", ruined)
    with pytest.raises(NonFiniteError, match=r"nothing is left .* bent too fast"):
        unnorm.recover_(model, original, tokens(64), train="all", **QUICK)
    assert all(type(norm) is DyTNorm for norm in norms_of(model))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert {spec.norm for spec in record_of(model).specs.values()} == {"dyt"}


def test_what_cannot_begin_leaves_the_model_as_it_was():
    model, original = swapped(spec=unnorm.FixedScale(center=False))
    with pytest.raises(ModelError, match="corrected layers"):
        unnorm.recover_(model, original, tokens(64), train="corrected", **QUICK)
    assert all(type(norm) is FixedScaleNorm for norm in norms_of(model))


def test_a_row_that_is_worse_than_a_guess_is_broken_though_finite(monkeypatch):
    model, original = swapped()
    rows = [{"input_ids": tokens(4)}, {"input_ids": tokens(4, seed=1)}]
    whole = distance.distance(model, original, rows)
    same = distance.distance(model, original, rows, broken_apart=True)
    assert (same.broken, same.tokens) == (0, whole.tokens)
    assert same.loss == pytest.approx(whole.loss)
    assert "broken" not in same.to_dict()
    compare, bad = distance.compare, rows[1]["input_ids"][2]

    def with_a_lost_row(model, head, original, other, batch):
        found = compare(model, head, original, other, batch)
        lost = torch.equal(batch["input_ids"][0], bad)
        return found._replace(loss=found.loss + 10 * found.predicted) if lost else found

    monkeypatch.setattr(distance, "compare", with_a_lost_row)
    found = distance.distance(model, original, rows, broken_apart=True)
    assert (found.broken, found.tokens) == (1, whole.tokens * 7 // 8)
    assert found.to_dict()["broken"] == 1
    assert found.loss == pytest.approx(whole.loss, rel=0.1)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"straighten_after": 0.4}, "say with straighten when it ends"),
        ({"straighten_after": 0.4, "straighten": 0.4}, "begins at 40% of the steps and ends at 40%"),
    ],
)
def test_bending_has_an_end_after_its_beginning(given, message):
    with pytest.raises(SettingsError, match=message):
        recover_settings(**given)


@pytest.mark.parametrize(
    "other", [{"target": 0.01}, {"objective": "ce"}, {"norm_parameters": "raw"}, {"compile": True}], ids=str
)
def test_what_it_does_not_go_with_is_named(other):
    with pytest.raises(SettingsError, match=f"straighten does not go with {next(iter(other))}"):
        recover_settings(straighten=0.5, **other)


def test_chosen_curves_are_bent_and_the_others_stay_and_cap(tmp_path):
    model, original = swapped()
    sites = record_of(model).sites
    options = {**QUICK, "straighten_sites": ("attention", "final"), "train": "lora", "norm_learning_rate": 1e-9}
    report = unnorm.recover_(model, original, tokens(64), folder=tmp_path / "run", **options)
    kinds = {site.role: type(model.get_submodule(site.path)) for site in sites}
    assert kinds == {"attention": FixedScaleNorm, "final": FixedScaleNorm, "mlp": DyTNorm}
    assert report.straightened == sum(site.role != "mlp" for site in sites) == 3
    assert report.kl_after == pytest.approx(report.curve[-1]["kl"], rel=0.05)
    steps = [json.loads(line) for line in (tmp_path / "run" / "steps.jsonl").read_text().splitlines()]
    bent = {site.path: steps[-1]["alpha"][site.path] / steps[0]["alpha"][site.path] for site in sites}
    assert bent == pytest.approx({site.path: 1 if site.role == "mlp" else 1 / 64 for site in sites}, rel=1e-3)
    unnorm.save(model, tmp_path / "saved")
    ids = tokens(2)
    torch.testing.assert_close(unnorm.load(tmp_path / "saved")(ids).logits, model(ids).logits)
    folded = {site.path: site.done for site in unnorm.optimize_(model, head=True).sites}
    assert {site.role for site in sites if folded[site.path] == "folded away"} == {"attention", "final"}
    assert bent_sites(record_of(model), None) == sites


def test_logits_are_the_sum_of_what_is_written_once_the_last_norm_is_straight():
    model, original = swapped()
    unnorm.recover_(model, original, tokens(64), train="norms", straighten_sites=["attention", "final"], **QUICK)
    unnorm.optimize_(model, head=True)
    written = []
    for part in [model.model.embed_tokens, *(half for b in model.model.layers for half in (b.self_attn, b.mlp))]:
        part.register_forward_hook(lambda m, a, out: written.append(out[0] if isinstance(out, tuple) else out))
    with torch.no_grad():
        logits = model(tokens(2)).logits
        head = model.get_output_embeddings()
        shares = [out @ head.weight.T for out in written]
        torch.testing.assert_close(sum(shares) + (0 if head.bias is None else head.bias), logits)
    assert len(shares) == 5


def test_fixed_scales_that_stay_are_watched_while_the_rest_is_bent():
    model, _ = swapped(spec={"mlp": DyT(alpha="channel"), "*": unnorm.FixedScale()})
    record = record_of(model)
    bent = Straightening(model, record, {"input_ids": tokens(2)}, sites=["mlp"], after=0.5, until=0.8)
    sizes = bent.watch({path: model.get_submodule(path) for path in record.specs})
    assert sizes.norms == norms_of(model), "nothing bounds a token at any of them"
    assert bent.norms == [model.get_submodule(path) for path in bent.paths]
    assert len(bent.paths) == 2
    with relative(bent.norms):
        bent.at(0.0)
    assert sizes.counts, "tokens can run away before the curves bend"
    model, _ = swapped()
    bent = Straightening(model, record_of(model), {"input_ids": tokens(2)}, sites=["mlp"], after=0.5, until=0.8)
    assert bent.watch({path: model.get_submodule(path) for path in record_of(model).specs}).norms == bent.norms
    with relative(bent.norms):
        bent.at(0.0)
    assert not bent.sizes.counts


def test_the_rest_of_the_curves_can_be_bent_later():
    model, original = swapped()
    for patterns in (("attention", "final"), None):
        unnorm.recover_(model, original, tokens(64), train="norms", straighten_sites=patterns, **QUICK)
    assert all(type(norm) is FixedScaleNorm for norm in norms_of(model))


@pytest.mark.parametrize(
    ("given", "message"),
    [({"straighten": None}, "say with straighten when they are"), ({"straighten": 0.5}, "no site matches 'mpl'")],
)
def test_sites_that_cannot_be_bent_are_named(given, message):
    model, original = swapped()
    with pytest.raises((SettingsError, SiteError), match=message):
        unnorm.recover_(model, original, tokens(64), **{**QUICK, **given}, straighten_sites=("mpl",))


def test_norms_without_a_curve_to_bend_are_named_unless_they_stay():
    model, original = swapped(spec={"attention": DyT(), "mlp": unnorm.Derf()})
    with pytest.raises(ModelError, match=r"post_attention_layernorm cannot be bent straight: derf"):
        unnorm.recover_(model, original, tokens(64), **QUICK)
    report = unnorm.recover_(model, original, tokens(64), train="norms", straighten_sites=["attention"], **QUICK)
    assert report.straightened == 2
