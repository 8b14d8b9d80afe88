import pytest

import unnorm
from conftest import tiny_model, tokens
from unnorm.data.settings import DataSettings
from unnorm.foundation.errors import ModelError
from unnorm.study.arms import arm_from
from unnorm.study.workbench import Workbench


def test_a_start_is_shared_by_strategies_and_made_anew_for_another_seed(bases, data_file, monkeypatch):
    bench, made = Workbench(quiet=True), []
    real = bench._swap
    monkeypatch.setattr(bench, "_swap", lambda *args: made.append(1) or real(*args))
    data = DataSettings(source=data_file, template="alpaca-short", max_length=64)
    starts = [bench.start(bases["gpt2"], arm_from("dyt"), data, 600, seed) for seed in (0, 0, 1)]
    assert len(made) == 2
    alphas = [[site["alpha"] for site in start.calibration["calibration"]["sites"]] for start in starts]
    assert alphas[0] == alphas[1] != alphas[2]
    assert starts[0].model is not starts[1].model


def test_a_start_that_recovers_is_never_made_here_in_silence(bases, data_file):
    arm = arm_from({"id": "learnt", "norm": "dyt", "recover": {"tokens": 256}})
    data = DataSettings(source=data_file, template="alpaca-short", max_length=64)
    with pytest.raises(AssertionError, match="make_start"):
        Workbench(quiet=True).start(bases["gpt2"], arm, data, 600, 0)


def test_an_artefact_is_no_base(tmp_path):
    model = tiny_model("llama")
    unnorm.swap_(model, unnorm.DyT(), calibrate_on=tokens())
    unnorm.save(model, tmp_path / "swapped")
    with pytest.raises(ModelError, match=r"swapped is an artefact of unnorm.*\{id: mine, artefact: "):
        Workbench(quiet=True).base(str(tmp_path / "swapped"))
