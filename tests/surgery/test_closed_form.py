"""Every step of a start in closed form is measured, and one that ends worse is put back."""

import copy
from dataclasses import replace

import pytest
import torch

import unnorm
from conftest import tiny_model, tokens
from sinks import sink_model, toy_text
from unnorm import DyT, FixedScale
from unnorm.foundation.errors import ModelError
from unnorm.study import start
from unnorm.study.start import Started, judge
from unnorm.surgery.closed_form import swap_stepwise_
from unnorm.surgery.finite import check_finite
from unnorm.surgery.swap import record_of


def loss_by(losses):
    """A loss that gives these numbers, one a call."""
    left = iter(losses)
    return lambda model: next(left)


STEPS = ("bare", "calibrated", "layers corrected")


@pytest.mark.parametrize(
    ("losses", "kept"),
    [
        ((4, 3, 2), STEPS),
        ((4, 3, 9), STEPS[:2]),
        ((4, 9, 2), ("bare", "layers corrected")),
        ((4, 9, 9), ("bare",)),
        ((4, 3, float("nan")), STEPS[:2]),
        ((float("nan"), 3, 3), STEPS),
        ((float("nan"), float("nan"), 3), ("bare", "layers corrected")),
        ((float("nan"), 3, float("nan")), STEPS[:2]),
        ((float("nan"), float("nan"), float("nan")), ("bare",)),
    ],
)
def test_the_last_step_that_is_no_worse_stands(losses, kept):
    model = tiny_model("llama")
    options = {"calibrate_on": tokens(16), "outliers": 0.1, "correct": "all"}
    report, steps = swap_stepwise_(model, DyT(), loss=loss_by(losses), **options)
    assert [step.name for step in steps] == list(STEPS)
    assert tuple(step.name for step in steps if step.kept) == kept
    alone = tiny_model("llama")
    asked = {"calibrate_on": None} if kept[-1] == "bare" else {"calibrate_on": tokens(16), "outliers": 0.1}
    if kept[-1] == STEPS[2]:
        asked["correct"] = "all"
    expected = unnorm.swap_(alone, DyT(), **asked)
    assert (report.calibration is None) == (expected.calibration is None)
    assert record_of(model).corrected == record_of(alone).corrected
    for (name, tensor), other in zip(model.state_dict().items(), alone.state_dict().values(), strict=True):
        assert torch.equal(tensor, other), name
    unnorm.unswap_(model)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), tiny_model("llama").parameters(), strict=True))


def test_rule_20_a_start_on_a_model_with_a_sink_never_ends_worse_than_the_step_before():
    model = sink_model(steps=60)
    fit, held_out = toy_text(16), toy_text(8, seed=1)
    loss = judge([{"input_ids": held_out}])
    expected = copy.deepcopy(model)
    _, steps = swap_stepwise_(model, DyT(alpha="channel"), calibrate_on=fit, loss=loss, correct="all")
    kept = [step.loss for step in steps if step.kept]
    assert kept == sorted(kept, reverse=True)
    assert loss(model) == kept[-1]
    assert loss(expected) < kept[-1]


def test_a_step_whose_logits_are_not_finite_on_other_tokens_is_put_back(monkeypatch):
    def refused(model):
        if record_of(model).corrected:
            raise ModelError("the logits are not finite")

    monkeypatch.setattr(start, "check_finite", refused)
    model = tiny_model("llama")
    loss = judge([{"input_ids": tokens(4)}])
    report, steps = swap_stepwise_(model, DyT(), loss=loss, calibrate_on=tokens(16), correct="all")
    assert not steps[-1].kept
    lines = Started(report, steps).describe()
    assert "step 'layers corrected' ended with logits that are not finite: it was put back" in lines
    assert "is linear" not in lines
    linear = dict.fromkeys(report.specs, FixedScale())
    assert "fixedscale is linear" in Started(replace(report, specs=linear), steps).describe()
    assert not record_of(model).corrected


def test_a_step_that_could_not_be_saved_counts_as_not_finite():
    model = tiny_model("llama")
    unnorm.swap_(model, FixedScale(), calibrate_on=tokens(16))
    text = tokens(4) % 16
    loss = judge([{"input_ids": text}])
    assert loss(model) == loss(model)
    with torch.no_grad():
        model.get_input_embeddings().weight[13] *= 1e30  # the first token that saving computes with
    text[text == 13] = 12
    check_finite(model)
    assert bool(model(text).logits.isfinite().all())
    judged = judge([{"input_ids": text}])(model)
    assert judged != judged
