import importlib.util
from dataclasses import replace
from pathlib import Path

import pytest

from report import views
from unnorm.study.view import PairView

PLACE = Path(__file__).parents[2] / "recipes" / "reference" / "claims.py"


@pytest.fixture(scope="module")
def claims():
    spec = importlib.util.spec_from_file_location("claims", PLACE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def found(claims, study):
    return {(claim.claim[:20], claim.arm): claim.found for claim in claims.claims(study)}


FELL, GAP, FASTER, PREFERRED = (
    text[:20]
    for text in (
        "the loss fell by more than 87 %",
        "loss 21–28 % above LayerNorm's",
        "0.5 % faster than LayerNorm",
        "LayerNorm preferred in 67 of 81",
    )
)


def test_what_was_not_run_is_not_measured(claims):
    study = views.study(broken={(arm, s, 0): "failed" for arm in views.ARMS for s in views.STRATEGIES})
    assert set(found(claims, study).values()) == {"not measured"}
    assert "From 0 of 6 cells" in claims.table(study)


def test_losses_are_the_ledgers(claims):
    study = views.study(seeds=(0, 1))
    cells = [replace(c, model="EleutherAI/pythia-410m") for c in study.cells]
    cells[0] = replace(cells[0], result={**cells[0].result, "loss_drop": 0.9})
    study = replace(study, cells=cells, models=["EleutherAI/pythia-410m"])
    rows = found(claims, study)
    assert rows[FELL, "original"] == "10.0% to 90.0% of the held-out loss; more than 87 % in 1 of 4 cells"
    assert rows[FELL, "dyt"] == "10.0% of the held-out loss; more than 87 % in 0 of 4 cells"
    losses = [[views.loss_of(arm, "full", seed) for seed in (0, 1)] for arm in ("dyt", "original")]
    mean = sum(a / b - 1 for a, b in zip(*losses, strict=True)) / 2
    assert rows[GAP, "dyt"] == f"{mean:+.1%} (data sets: 1; seeds of each: 2 or more)"
    assert (GAP, "original") not in rows


def pair(arm, wins, losses, ratio, verdict):
    compared = {"model": arm, "reference": "original", "ratio": {"value": ratio}, "verdict": verdict}
    bound = {**compared, "model": "no norms", "ratio": {"value": 0.1}, "verdict": "faster"}
    return PairView(
        model="m", dataset="d", strategy="full", seed=0, arm=arm, against="original",
        judge={"parts": {"whole": {"wins": wins, "losses": losses}, "turn 1": {"wins": 99, "losses": 0}}},
        latency={"comparisons": [bound, compared]},
    )  # fmt: skip


def test_pairs_are_counted_for_the_reference(claims):
    pairs = [
        pair("dyt", 10, 20, 1.02, "slower"),
        pair("dyt", 5, 5, 0.99, "no difference shown"),
        pair("dyt", 9, 2, 0.95, "faster"),
        PairView(model="m", dataset="d", strategy="full", seed=1, arm="dyt", against="original"),
    ]
    rows = found(claims, replace(views.study(), pairs=pairs))
    assert rows[PREFERRED, "dyt"] == "in 1 of 3, 1 even"
    assert rows[FASTER, "dyt"] == "time -1.0% (median of 3); shown to be faster in 1, slower in 1"
    assert rows[PREFERRED, "dyt-bare"] == rows[FASTER, "dyt-bare"] == "not measured"


def test_tokens_that_a_start_learnt_from_are_said(claims):
    said = "learnt from 30,720 tokens before the training that all arms have."
    assert [line for line in claims.table(views.study()).splitlines() if said in line] == [f"dyt {said}"]


def test_an_unmatched_comparison_is_said(claims):
    said = "Not matched, since their arms differ in more than the norm: 1 comparisons."
    assert said in claims.table(views.study(matched=False))


def test_a_folder_without_a_study_is_the_users_mistake(claims, tmp_path, capsys):
    assert claims.main([str(tmp_path)]) == 2
    assert "no study was run there" in capsys.readouterr().err
