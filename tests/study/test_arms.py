import pytest

from unnorm.foundation.errors import SettingsError
from unnorm.norms.spec import known_norms
from unnorm.study.arms import ArmRecovery, arm_from, known_arms
from unnorm.tuning.recover_settings import RECOVER_TOKENS


def test_every_norm_has_its_arms_and_dyt_its_variants():
    known = {name: arm_from(name) for name in known_arms()}
    for norm in known_norms():
        for suffix in ("", "-bare", "-inherit", "-corrected", "-recovered"):
            assert known[norm + suffix].norm["norm"] == norm
        recovered = known[f"{norm}-recovered"]
        assert (recovered.calibration_tokens, recovered.correct) == (8192, "all")
        assert recovered.recover == ArmRecovery()
        assert recovered.norm == {**known[norm].norm, **({"alpha": "channel"} if "alpha" in recovered.norm else {})}
    assert known["original"].norm is None
    assert known["dyt-plain"].norm["affine"] is False
    assert known["dyt-paper"].norm["alpha_init"] == "paper"
    assert known["dyt-straightened"].recover.straighten_after < known["dyt-straightened"].recover.straighten < 1
    assert known["dyt-straightened"].norm == known["dyt-recovered"].norm
    attention = known["dyt-straightened-attention"].recover
    assert attention.straighten_sites == ("attention", "final")
    assert attention.model_copy(update={"straighten_sites": None}) == known["dyt-straightened"].recover
    assert known["dyt"].calibration_tokens
    assert known["dyt"].correct == "none"
    assert known["dyt-corrected"].correct == "all"
    assert known["dyt-bare"].calibration_tokens is None
    assert not known["dyt-bare"].inherit
    assert known["dyt-inherit"].inherit


@pytest.mark.parametrize(
    ("entry", "why"),
    [
        (
            {"id": "x", "norm": "fixedscale", "center": True, "recover": {"straighten": 0.7}},
            "takes each token's mean off",
        ),
        ({"id": "x", "norm": "derf", "recover": {"straighten": 0.7}}, "a curve with a shift"),
        ({"id": "x", "norm": "dyt", "affine": False, "recover": {"straighten": 0.7}}, "has no γ"),
        ({"id": "x", "recover": {"straighten": 0.7}}, "is the pretrained one"),
    ],
)
def test_what_cannot_be_bent_straight_is_refused_at_its_place(entry, why):
    with pytest.raises(SettingsError, match=why) as error:
        arm_from(entry)
    assert error.value.location == ("recover", "straighten")


def test_an_arm_of_ones_own():
    arm = arm_from(
        {
            "id": "mine",
            "norm": "derf",
            "alpha": "channel",
            "calibrate": {"tokens": 512, "mode": "sequential", "outliers": 0.01},
            "recover": {"tokens": 10_240, "train": "norms", "data": ["alpaca", "gsm8k=0.5"]},
        }
    )
    assert (arm.calibration_tokens, arm.mode, arm.outliers) == (512, "sequential", 0.01)
    assert (arm.recover.tokens, arm.recover.train, arm.recover.data) == (10_240, "norms", ("alpaca", "gsm8k=0.5"))
    assert arm.norm["alpha"] == "channel"
    assert arm_from({"id": "a", "norm": "dyt", "calibrate": {"correct": "readers"}}).calibration_tokens == 16384
    assert arm_from({"id": "b", "norm": "dyt"}).calibration_tokens is None
    begin = {"calibrate": {"correct": "all"}, "recover": {"train": "corrected"}}
    layers = arm_from({"id": "c", "norm": "dyt", **begin})
    assert (layers.recover.tokens, layers.recover.train) == (RECOVER_TOKENS, "corrected")
    assert arm_from({"id": "c", "norm": "dyt", "start": begin}) == layers


def test_what_an_arm_does_not_ask_for_is_no_part_of_its_hash():
    assert "recover" not in arm_from("dyt-corrected").model_dump()


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("dyt-fancy", "Known arms: original"),
        ({"id": "dyt", "norm": "dyt"}, "known arm"),
        ({"norm": "dyt"}, "needs an `id`"),
        ({"id": "A B", "norm": "dyt"}, "lower-case"),
        (
            {"id": "x", "norm": "dyt", "colour": 1},
            "there is no such key. There are: affine, bias, alpha",
        ),
        ({"id": "x", "norm": "dyt", "calibrate": {"tokens": 0}}, "above 0"),
        ({"id": "x", "norm": "dyt", "calibrate": {"token": 5}}, "and nothing else"),
        ({"id": "x", "norm": "dyt", "calibrate": {"mode": "fast"}}, "mode"),
        ({"id": "x", "norm": "dyt", "calibrate": {"outliers": 0.9}}, "outliers"),
        ({"id": "x", "norm": "dyt", "recover": 5}, "recover takes batch_tokens, blockwise, compile, data"),
        ({"id": "x", "norm": "dyt", "calibrate": {}, "recover": {"train": "corrected"}}, "the arm corrects no layers"),
        ({"id": "x", "norm": "dyt", "recover": {"steps": 10}}, "recover takes batch_tokens, blockwise, compile, data"),
        ({"id": "x", "norm": "dyt", "recover": {"target": -1}}, "target"),
        ({"id": "x", "norm": "dyt", "recover": {"train": "lora", "blockwise": True}}, "block by block goes with train"),
        ({"id": "x", "recover": {"objective": "ce", "blockwise": True}}, "block by block goes with"),
        ({"id": "x", "norm": "dyt", "start": {"recover": {}}, "recover": {}}, "both in start and beside it"),
        ({"id": "x", "norm": "dyt", "calibrate": {"correct": "all"}, "recover": {"train": "some"}}, "train"),
    ],
)
def test_arms_that_cannot_be(entry, message):
    with pytest.raises(SettingsError, match=message):
        arm_from(entry)
