"""Sites are watched while they train, and no longer."""

import copy

import pytest

import unnorm
from conftest import tiny_model, tokens
from study.test_cell import settings_of
from unnorm import DyT
from unnorm.foundation.errors import NonFiniteError
from unnorm.norms.curve import CurveNorm
from unnorm.study.run_cell import run_cell
from unnorm.tuning.trainer import TokenTrainer

QUICK = {"tokens": 2 * 256, "batch_tokens": 256, "precision": "fp32", "quiet": True}


def swapped():
    original = tiny_model("llama")
    model = copy.deepcopy(original)
    unnorm.swap_(model, DyT(), calibrate_on=tokens(16))
    return model, original


def curves_of(model):
    found = [module for module in model.modules() if isinstance(module, CurveNorm)]
    assert found
    return found


def as_before(model):
    return not any(curve._forward_hooks or hasattr(curve, "saturation_seen") for curve in curves_of(model))


@pytest.fixture
def hooks_in_training(monkeypatch):
    """How many forward hooks each curve has while it trains, of every step."""
    seen, step = [], TokenTrainer.training_step

    def counted(self, model, *args, **options):
        seen.append([len(curve._forward_hooks) for curve in curves_of(model) if curve.weight.requires_grad])
        return step(self, model, *args, **options)

    monkeypatch.setattr(TokenTrainer, "training_step", counted)
    return seen


@pytest.mark.parametrize("train", ["norms", "lora"])
def test_a_recovery_takes_its_hooks_away(train, hooks_in_training):
    model, original = swapped()
    for _ in range(2):
        unnorm.recover_(model, original, tokens(32), train=train, **QUICK)
        assert as_before(model)
    assert hooks_in_training == [[1] * 5] * 4


@pytest.mark.parametrize("train", ["norms", "lora"])
def test_one_that_fails_does_so_too(train, hooks_in_training):
    model, original = swapped()
    wild = {"learning_rate": 1e30, "norm_learning_rate": 1e30}
    with pytest.raises(NonFiniteError):
        unnorm.recover_(model, original, tokens(32), train=train, **wild, **QUICK)
    assert hooks_in_training
    assert as_before(model)


@pytest.fixture
def trained(monkeypatch):
    """The models that were trained, as `fit` leaves them."""
    models, fit = [], TokenTrainer.fit

    def kept(self, *args, **options):
        models.append(self.model)
        fit(self, *args, **options)

    monkeypatch.setattr(TokenTrainer, "fit", kept)
    return models


@pytest.mark.parametrize("strategy", ["selective", "full"])
@pytest.mark.parametrize("rate", [1e-3, 1e30])
def test_so_does_a_fine_tune(strategy, rate, bases, data_file, tmp_path, trained, hooks_in_training):
    training = {"tokens": 500, "learning_rate": rate, "norm_learning_rate": rate}
    settings = settings_of(bases["llama"], data_file, strategy=strategy, training=training)
    if rate > 1:
        with pytest.raises(NonFiniteError):
            run_cell(settings, tmp_path / "cell", quiet=True)
    else:
        run_cell(settings, tmp_path / "cell", quiet=True)
    assert set(map(tuple, hooks_in_training)) == {(1,) * 5}
    assert as_before(trained[-1])
