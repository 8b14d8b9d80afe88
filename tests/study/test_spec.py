import pytest

from unnorm.foundation.errors import SettingsError
from unnorm.study.spec import parse_spec, read_spec

GOOD = """\
name: try
models: [some/model]
datasets:
  - {source: alpaca, rows: 100}
arms: [original, dyt-bare, dyt, {id: dyt-channel, norm: dyt, alpha: channel, calibrate: {tokens: 8192}}]
strategies: [frozen, full]
seeds: [0, 1]
training:
  tokens: 1_000_000
  learning_rate: {frozen: 3.0e-3, full: 4.0e-4}
after: {completions: {prompts: builtin}}
"""


def test_a_study_is_the_product_of_its_lists():
    cells = parse_spec(GOOD, "x.yaml").cells()
    assert len(cells) == 4 * 2 * 2
    assert {(c.arm.id, c.strategy, c.seed) for c in cells} == {
        (arm, strategy, seed)
        for arm in ("original", "dyt-bare", "dyt", "dyt-channel")
        for strategy in ("frozen", "full")
        for seed in (0, 1)
    }
    assert {c.training.learning_rate for c in cells if c.strategy == "full"} == {4e-4}
    (channel, *_) = [c for c in cells if c.arm.id == "dyt-channel"]
    assert channel.arm.calibration_tokens == 8192
    assert channel.arm.norm["alpha"] == "channel"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("tokens: 1_000_000", "tokenz: 1"), "line 9: training.tokenz: there is no such key"),
        (("tokens: 1_000_000", "tokens: many"), "line 9: training.tokens: "),
        (("seeds: [0, 1]", "seedz: [0]"), "line 7: seedz: there is no such key"),
        (("name: try\n", ""), "line 1: name: Field required"),
        (("strategies: [frozen, full]", "strategies: [frozen, half]"), "line 6: strategies.1: "),
        (("rows: 100", "row: 100"), "line 4: datasets.0.row: there is no such key"),
        (("dyt-bare, dyt,", "dyt-bare, dit,"), "line 5: arms: there is no arm 'dit'"),
        (("alpha: channel", "alfa: channel"), "line 5: arms: norm 'dyt', setting 'alfa'"),
        (
            ("tokens: 8192", "token: 1"),
            "line 5: arms: arm 'dyt-channel': calibrate takes correct, mode, outliers, tokens",
        ),
        (("dyt-bare, dyt,", "dyt, dyt,"), "each id may stand once"),
        (("full: 4.0e-4", "selective: 1.0"), "names no rate for 'full'"),
        (("3.0e-3", "fast"), "line 10: training.learning_rate"),
        (("name: try", "name: try\nversion: 2"), "version 2; this unnorm reads up to 1"),
        (("arms: [", "arms: [["), "not valid YAML"),
        (("some/model", '"${NOT_SET_ANYWHERE}/m"'), "NOT_SET_ANYWHERE}, which is not set"),
        (
            ("{prompts: builtin}}", "{prompts: builtin}, judge: {kind: likelihood}}"),
            "after.judge: there is no such key",
        ),
    ],
)
def test_what_is_wrong_is_named_with_line_and_key(change, message):
    text = GOOD.replace(*change)
    assert text != GOOD
    with pytest.raises(SettingsError) as caught:
        parse_spec(text, "x.yaml")
    assert message in str(caught.value)


def test_variables_are_expanded(monkeypatch):
    monkeypatch.setenv("MODELS_AT", "/somewhere")
    spec = parse_spec(GOOD.replace("some/model", '"${MODELS_AT}/m"'), "x.yaml")
    assert spec.models == ["/somewhere/m"]


def test_a_missing_file(tmp_path):
    with pytest.raises(SettingsError, match="there is no study file"):
        read_spec(tmp_path / "absent.yaml")


def test_the_users_own_recipes_and_benchmarks_can_be_read(monkeypatch):
    from pathlib import Path

    monkeypatch.setenv("UNNORM_SHARED", "/nowhere")
    root = Path(__file__).parents[2]
    files = [*root.glob("recipes/*/*.yaml"), *root.glob("benchmarks/*.yaml")]
    assert files
    for file in files:
        spec, _ = read_spec(file)
        assert spec.cells()
