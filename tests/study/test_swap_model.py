"""A swapped model is measured as it is saved."""

import pytest
import torch

import unnorm
from conftest import tiny_model, tokens
from sinks import sink_model
from surgery.architectures import architecture, architecture_tokens
from unnorm import DyT
from unnorm.data.settings import DataSettings
from unnorm.foundation.errors import ModelError
from unnorm.foundation.precision import Chosen
from unnorm.study import start
from unnorm.study import swap_model as module
from unnorm.study.arms import Arm
from unnorm.study.swap_model import Swap, _measured_as_saved, swap_model
from unnorm.surgery.inputs import with_pieces
from unnorm.tuning.distance import Distance, distance


def swapped():
    original = tiny_model("llama")
    model = tiny_model("llama")
    unnorm.swap_(model, DyT(), calibrate_on=tokens(16))
    return model, original, [{"input_ids": tokens(8, seed=1)}]


def test_weights_that_bear_rounding_are_saved_narrow_and_measured_so():
    model, original, batches = swapped()
    whole = distance(model, original, batches)
    said = []
    found, narrowed = _measured_as_saved(model, torch.bfloat16, lambda: distance(model, original, batches), said.append)
    assert (narrowed, said) == (True, [])
    assert model.config.dtype == torch.bfloat16
    assert model.model.layers[0].mlp.up_proj.weight.dtype == torch.bfloat16
    assert found.loss != whole.loss
    model.float()
    assert distance(model, original, batches).loss == pytest.approx(found.loss, rel=1e-6)


@pytest.mark.parametrize(("rounded", "stays_wide"), [(2.03, True), (2.01, False), (1.9, False)])
def test_where_rounding_loses_more_than_a_hundredth_weights_stay_wide_and_it_is_said(rounded, stays_wide):
    model, _, _ = swapped()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    losses, said = iter((2.0, rounded)), []

    def measure():
        assert model.model.layers[0].mlp.up_proj.weight.dtype == torch.float32  # what is computed in
        return Distance(kl=0.1, agreement=0.9, loss=next(losses), original_loss=1.9, tokens=100)

    found, narrowed = _measured_as_saved(model, torch.bfloat16, measure, said.append)
    assert narrowed is not stays_wide
    assert found.loss == (2.0 if stays_wide else rounded)
    if stays_wide:
        assert said == ["saved in float32: in bfloat16, as the base is, its gap would be +6.8%"]
        assert model.config.dtype in (None, torch.float32)
        assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in before.items())


def test_a_base_in_fp32_is_measured_once():
    model, original, batches = swapped()
    calls = []

    def measure():
        calls.append(1)
        return distance(model, original, batches)

    _, narrowed = _measured_as_saved(model, torch.float32, measure, lambda line: None)
    assert not narrowed
    assert len(calls) == 1


def test_weights_that_rounding_does_not_change_are_measured_once():
    model, original, batches = swapped()
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            tensor.copy_(tensor.bfloat16())
    calls = []

    def measure():
        calls.append(1)
        return distance(model, original, batches)

    _, narrowed = _measured_as_saved(model, torch.bfloat16, measure, lambda line: None)
    assert narrowed
    assert len(calls) == 1


@pytest.mark.parametrize(("saved_in", "multiplies"), [("bfloat16", "bf16"), ("bfloat16", "fp32"), ("float32", "bf16")])
def test_a_model_that_is_saved_in_bf16_is_measured_in_it_where_it_is_multiplied(
    tmp_path, tokenizer, data_file, monkeypatch, saved_in, multiplies
):
    tiny_model("llama").to(getattr(torch, saved_in)).save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    monkeypatch.setattr(module, "choose", lambda asked, device: Chosen(multiplies, "made up"))
    data = ((data_file, 1.0), (data_file, 2.0))
    swap = Swap(data, data, 300, DataSettings(source=data_file, template="alpaca-short"), None, 0)
    arm = Arm(id="swap", norm={"norm": "dyt"}, calibration_tokens=500)
    done = swap_model(
        str(tmp_path / "base"), arm, swap, tmp_path / "out", overwrite=False, say=lambda _: None, quiet=True
    )
    assert (done.in_bf16 is not None) == (saved_in == "bfloat16" and multiplies == "bf16")
    if done.in_bf16 is not None:
        assert done.in_bf16.tokens == done.distance.tokens
        assert done.in_bf16.loss != done.distance.loss
        assert done.in_bf16.loss == pytest.approx(done.distance.loss, rel=0.05)


def test_a_start_says_that_writers_were_left_alone():
    for name, said in (("mixtral", True), ("olmo2", False)):
        report = unnorm.swap_(architecture(name), DyT(), calibrate_on=architecture_tokens(8), correct="all")
        assert ("corrected no layer that writes to the residual stream" in start.Started(report).describe()) == said


@pytest.mark.parametrize(("make", "in_pieces"), [(lambda: sink_model(), True), (lambda: tiny_model("llama"), False)])
def test_text_is_cut_to_pieces_for_a_model_with_sinks_alone(
    tmp_path, tokenizer, data_file, monkeypatch, make, in_pieces
):
    make().save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    lengths = []
    monkeypatch.setattr(
        start, "with_pieces", lambda batch, length, bos: lengths.append(length) or with_pieces(batch, length, bos)
    )
    data = ((data_file, 1.0),)
    swap = Swap(data, (), 300, DataSettings(source=data_file, template="alpaca-short"), None, 0)
    arm = Arm(id="swap", norm={"norm": "dyt"}, calibration_tokens=500, correct="all")
    swap_model(str(tmp_path / "base"), arm, swap, tmp_path / "out", overwrite=False, say=lambda _: None, quiet=True)
    assert lengths == ([start.PIECE_TOKENS] if in_pieces else [])


@pytest.mark.parametrize(("norm", "advice"), [("fixedscale", True), ("dyt", False)])
def test_a_swap_of_which_no_step_is_finite_is_refused(tmp_path, tokenizer, data_file, monkeypatch, norm, advice):
    tiny_model("llama").save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    monkeypatch.setattr(start, "judge", lambda batches: lambda model: float("nan"))
    data = ((data_file, 1.0),)
    swap = Swap(data, (), 300, DataSettings(source=data_file, template="alpaca-short"), None, 0)
    arm = Arm(id="swap", norm={"norm": norm}, calibration_tokens=500, correct="all")
    with pytest.raises(ModelError, match=r"not finite, whatever the swap begins from \(bare, .*, layers corr") as error:
        swap_model(str(tmp_path / "base"), arm, swap, tmp_path / "out", overwrite=False, say=lambda _: None, quiet=True)
    assert ("fixedscale is linear" in str(error.value)) == advice
    assert not (tmp_path / "out").exists()
