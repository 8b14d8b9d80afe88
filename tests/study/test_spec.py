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
        (("name: try\n", ""), "line 1: name: this key is missing"),
        (("arms: [", "armss: ["), "line 5: armss: there is no such key. Did you mean 'arms'?"),
        (("strategies: [frozen, full]", "strategies: [frozen, half]"), "line 6: strategies.1: "),
        (("rows: 100", "row: 100"), "line 4: datasets.0.row: there is no such key"),
        (("dyt-bare, dyt,", "dyt-bare, dit,"), "line 5: arms.2: there is no arm 'dit'"),
        (
            ("alpha: channel", "alfa: channel"),
            "line 5: arms.3.alfa: norm 'dyt', setting 'alfa': there is no such key. Did",
        ),
        (
            ("tokens: 8192", "token: 1"),
            "line 5: arms.3.calibrate.token: arm 'dyt-channel': calibrate takes correct, mode, outliers, tokens",
        ),
        (("dyt-bare, dyt,", "dyt, dyt,"), "line 5: arms: each may stand once, not original, dyt, dyt, dyt-channel"),
        (("full: 4.0e-4", "selective: 1.0"), "line 10: training.learning_rate: names no rate for 'full'"),
        (("3.0e-3", "fast"), "line 10: training.learning_rate"),
        (("name: try", "name: try\nversion: 2"), "line 2: version: 2 is newer than this unnorm, which reads up to 1"),
        (("arms: [", "arms: [["), "not valid YAML"),
        (("some/model", '"${NOT_SET_ANYWHERE}/m"'), "line 2: ${NOT_SET_ANYWHERE} is used, which is not set"),
        (("{completions: {prompts: builtin}}", "{judge: {kind: pairrm}}"), "line 11: after: judge needs"),
        (("seeds: [0, 1]", "seeds: [0, 1]\nseeds: [2]"), "line 8: seeds stands a second time, after line 7"),
        (("tokens: 1_000_000", "tokens: 1\n  epochs: 2"), "line 8: training: tokens and epochs both"),
        (("strategies: [frozen, full]", "strategies: [full, full]"), "line 6: strategies: each may stand once"),
        (("rows: 100}", "rows: 100}\n  - {source: alpaca}"), "each may stand once, not alpaca, alpaca. Give one of"),
    ],
)
def test_what_is_wrong_is_named_with_line_and_key(change, message):
    text = GOOD.replace(*change)
    assert text != GOOD
    with pytest.raises(SettingsError) as caught:
        parse_spec(text, "x.yaml")
    assert message in str(caught.value)


SLICED = """\
name: try
models: [some/small, some/large]
datasets: [{source: alpaca, rows: 10, name: few}, {source: alpaca, name: all}]
arms: [original, dyt-bare]
strategies: [frozen, full]
exclude:
  - {model: some/large, strategy: full}
overrides:
  - where: {model: some/large, arm: dyt-bare}
    set: {arm: {alpha_init: 1.0}}
  - where: {model: some/large}
    set: {training: {epochs: 2, lora: {r: 4}}}
  - where: {dataset: all, strategy: [full]}
    set: {evaluation: {tokens: 7}, dataset: {template: plain}}
training: {tokens: 1000, learning_rate: 1.0e-3}
"""


def test_slices_are_left_out_and_set_otherwise():
    cells = parse_spec(SLICED, "x.yaml").cells()
    assert len(cells) == 2 * 2 * 2 * 2 - 2 * 2
    for cell in cells:
        large, whole = cell.model == "some/large", cell.dataset_name == "all"
        assert not (large and cell.strategy == "full")
        assert cell.epochs == (2 if large else None)
        assert cell.training.lora.r == (4 if large else 8)
        assert cell.training.lora.alpha == 32
        assert cell.evaluation_tokens == (7 if whole and cell.strategy == "full" else 100_000)
        assert cell.data.template == ("plain" if whole and cell.strategy == "full" else "alpaca")
        if cell.arm.id == "dyt-bare":
            assert cell.arm.norm["alpha_init"] == (1.0 if large else 0.5)
            assert cell.arm.calibration_tokens is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("strategy: full}", "strategy: half}"), "line 7: exclude.0.strategy"),
        (("- {model: some/large, strategy: full}", "- {}"), "line 6: exclude: no cell is left"),
        (("some/large, strategy: full", "some/huge"), "line 7: exclude.0.model: there is no model 'some/huge'"),
        (
            ("where: {model: some/large}", "where: {model: some/large, strategy: full}"),
            "line 11: overrides.1.where: no cell fits all of this",
        ),
        (("lora: {r: 4}", "lora: {rank: 4}"), "line 12: overrides.1.set.training.lora.rank: there is no such key"),
        (("epochs: 2", "epochs: 2, tokens: 3"), "line 12: overrides.1.set.training: tokens and epochs"),
        (("epochs: 2", "epochs: -2"), "line 12: overrides.1.set.training.epochs: must be above 0, not -2"),
        (("template: plain", "source: plain"), "line 14: overrides.2.set.dataset.source: there is no such key"),
        (("alpha_init: 1.0", "alfa: 1.0"), "line 10: overrides.0.set.arm.alfa: norm 'dyt', setting 'alfa'"),
        (("arm: dyt-bare}", "arm: original}"), "line 10: overrides.0.set.arm: arm 'original' keeps the pretrained"),
        (("alpha_init: 1.0", "norm: derf"), "line 10: overrides.0.set.arm.norm: arm 'dyt-bare' is what its norm makes"),
        (
            ("epochs: 2, lora: {r: 4}", "learning_rate: {full: fast}"),
            "line 12: overrides.1.set.training.learning_rate.full: must be a number",
        ),
        (
            (
                "large}\n    set: {training: {epochs: 2, lora: {r: 4}}}",
                "large}\n    set: {training: {max_length: 1000}}\n"
                "  - where: {model: some/large}\n    set: {training: {weight_decay: 0.1}}",
            ),
            "line 12: overrides.1.set.training.max_length: batch_tokens (4096) must be a multiple of",
        ),
        (
            (
                "large}\n    set: {training: {epochs: 2, lora: {r: 4}}}",
                "large}\n    set: {training: {precision: null}}\n"
                "  - where: {model: some/large}\n    set: {training: {weight_decay: 0.1}}",
            ),
            "line 12: overrides.1.set.training.precision: must be",
        ),
        (
            (
                "set: {evaluation: {tokens: 7}, dataset: {template: plain}}\n"
                "training: {tokens: 1000, learning_rate: 1.0e-3}",
                "set: {training: {learning_rate: {full: 1.0e-4}}}\ntune: {learning_rate: {full: [1, 2]}}",
            ),
            "line 14: overrides.2.set.training.learning_rate: the rate of full is both given and tuned",
        ),
        (
            (
                "1000, learning_rate: 1.0e-3}",
                "1000, learning_rate: {frozen: 1.0e-3}}",
            ),
            "line 15: training.learning_rate: names no rate for 'full'",
        ),
        (
            (
                "where: {dataset: all, strategy: [full]}\n    set: {",
                "where: {dataset: all}\n    set: {training: {epochs: 3}, ",
            ),
            "line 14: overrides.2.set.training.epochs: training.epochs is set to 3 here and to 2 in overrides.1",
        ),
        (("set: {arm: {alpha_init: 1.0}}", "set: {}"), "line 10: overrides.0.set: nothing is set"),
        (("learning_rate: 1.0e-3}", "learning_rate: 1.0e-3}\ntune: {learning_rate: [1, 2]}"), "both given and tuned"),
        (
            ("1000, learning_rate: 1.0e-3}", "1000}\ntune: {learning_rate: [1, 1]}"),
            "line 16: tune.learning_rate: a search needs two different rates",
        ),
        (
            ("1000, learning_rate: 1.0e-3}", "1000}\ntune: {learning_rate: {}}"),
            "line 16: tune.learning_rate: there is no rate to try: give a list of rates",
        ),
        (
            ("1000, learning_rate: 1.0e-3}", "1000}\ntune: {learning_rate: {selective: [1.0e-3, 3.0e-3]}}"),
            "line 16: tune.learning_rate: there are rates for selective alone, and no cell of the study trains so. "
            "Give rates for frozen or full, or leave `tune` out.",
        ),
    ],
)
def test_what_is_wrong_with_a_slice_is_named_with_its_line(change, message):
    text = SLICED.replace(*change)
    assert text != SLICED
    with pytest.raises(SettingsError) as caught:
        parse_spec(text, "x.yaml")
    assert message in str(caught.value)


def rates(text: str) -> dict[tuple[str, str], float]:
    """Of a study of one arm: (data set, strategy) -> its cell's rate."""
    found = parse_spec(text.replace("[original, dyt-bare]", "[original]").replace(", arm: dyt-bare", ""), "x").cells()
    return {(c.dataset_name, c.strategy): c.training.learning_rate for c in found if c.model == "some/small"}


def overridden(set_: str, training: str = "", where: str = "{dataset: all}") -> str:
    override = f"overrides: [{{where: {where}, set: {{training: {set_}}}}}]\n"
    return SLICED.partition("exclude:")[0] + override + training


@pytest.mark.parametrize(
    ("training", "others"),
    [
        ("", {"frozen": 3e-3, "full": 4e-4}),
        ("training: {learning_rate: 0.5}\n", {"frozen": 0.5, "full": 0.5}),
        ("training: {learning_rate: {frozen: 0.2, full: 0.3}}\n", {"frozen": 0.2, "full": 0.3}),
    ],
)
def test_an_overrides_rates_leave_other_strategies_theirs(training, others):
    few = {("few", strategy): rate for strategy, rate in others.items()}
    found = rates(overridden("{learning_rate: {full: 1.0e-4}}", training))
    assert found == few | {("all", "frozen"): others["frozen"], ("all", "full"): 1e-4}
    assert rates(overridden("{learning_rate: 0.7}", training)) == few | {("all", "frozen"): 0.7, ("all", "full"): 0.7}


def test_an_overrides_rates_do_not_count_for_a_strategy_that_is_tuned():
    tuned = "tune: {learning_rate: {frozen: [1, 2]}}\n"
    assert rates(overridden("{learning_rate: {full: 1.0e-4}}", tuned))["all", "full"] == 1e-4


def test_a_rate_and_a_map_of_rates_that_disagree_are_refused():
    text = overridden("{learning_rate: 0.7}").replace(
        "overrides: [", "overrides: [{where: {strategy: full}, set: {training: {learning_rate: {full: 0.1}}}}, "
    )
    with pytest.raises(SettingsError, match=r"learning_rate is set to 0\.7 here and to 0\.1 in overrides\.0"):
        rates(text)


def test_no_epochs_in_an_override_leave_the_files_tokens():
    text = overridden("{epochs: null}", "training: {tokens: 50_000}\n")
    assert {(cell.training.tokens, cell.epochs) for cell in parse_spec(text, "x").cells()} == {(50_000, None)}
    text = overridden("{epochs: 2, tokens: null}", "training: {tokens: 50_000}\n")
    with pytest.raises(SettingsError, match=r"overrides\.0\.set\.training\.tokens: must be a whole number"):
        parse_spec(text, "x")


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
    files = [*root.glob("recipes/*/*.yaml"), *root.glob("benchmarks/**/*.yaml")]
    assert files
    for file in files:
        spec, _ = read_spec(file)
        assert spec.cells()


@pytest.fixture
def extending(tmp_path):
    """A function from the text of a file that stands beside GOOD to what `read_spec` gives of it."""
    (tmp_path / "good.yaml").write_text(GOOD)

    def read(text: str):
        (tmp_path / "small.yaml").write_text(text)
        return read_spec(tmp_path / "small.yaml")

    return read


def test_a_file_on_top_of_another(extending):
    spec, text = extending(
        "extends: good.yaml\nname: small\ntraining: {tokens: 5000}\nseeds: [7]\n"
        "after: null\nevaluation: {tokens: 300}\n"
    )
    base = parse_spec(GOOD, "x.yaml")
    assert (spec.name, spec.training.tokens, spec.seeds, spec.evaluation.tokens) == ("small", 5000, [7], 300)
    assert spec.training.learning_rate == base.training.learning_rate
    assert (spec.models, spec.datasets, spec.arms) == (base.models, base.datasets, base.arms)
    assert base.after.completions is not None
    assert spec.after.completions is None
    assert parse_spec(text, "the ledger's").model_dump() == spec.model_dump()


def test_a_plain_files_text_stays_as_it_is(extending):
    commented = "# mine\n" + GOOD
    assert extending(commented)[1] == commented


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("extends: good.yaml\ntraining: {tokenz: 1}\n", r"small\.yaml, line 2: training\.tokenz: there is no such key"),
        ("extends: good.yaml\narms: [original]\nstrategies: [half]\n", r"small\.yaml, line 3: strategies\.0"),
        ("extends: good.yaml\nexclude: [{strategy: selective}]\n", r"small\.yaml, line 2: exclude"),
        ("extends: good.yaml\nstrategies: [selective]\n", r"good\.yaml, line 10: training\.learning_rate"),
        ("extends: none.yaml\n", r"small\.yaml, line 1: extends: there is no study file '.*none\.yaml'"),
        ("extends: [good.yaml]\n", r"line 1: extends: give the path of one study file"),
        ("extends: small.yaml\n", r"small\.yaml, line 1: extends: 10 files extend each other already"),
    ],
)
def test_what_is_wrong_is_named_in_the_file_that_says_it(extending, text, message):
    with pytest.raises(SettingsError, match=message):
        extending(text)


def test_an_override_taken_over_for_an_arm_that_is_dropped(extending, tmp_path):
    override = "overrides: [{where: {arm: dyt}, set: {training: {tokens: 9000}}}]\n"
    (tmp_path / "good.yaml").write_text(GOOD + override)
    small = "extends: good.yaml\narms: [original]\n"
    with pytest.raises(SettingsError, match=r"good\.yaml, .* no arm 'dyt' .*small\.yaml takes `overrides` over from"):
        extending(small)
    assert extending(small + "overrides: null\n")[0].overrides == []
    with pytest.raises(SettingsError) as own:
        extending(small + override)
    assert "over from" not in str(own.value)


def test_a_search_taken_over_for_a_strategy_that_is_dropped(extending, tmp_path):
    (tmp_path / "good.yaml").write_text(GOOD + "tune: {learning_rate: {full: [1.0e-4, 3.0e-4]}}\n")
    small = "extends: good.yaml\nstrategies: [frozen]\n"
    with pytest.raises(SettingsError, match=r"good\.yaml, .* rates for full alone.*small\.yaml takes `tune` over from"):
        extending(small)
    assert extending(small + "tune: null\n")[0].tune is None


def test_a_text_that_is_no_file_extends_nothing():
    with pytest.raises(SettingsError, match=r"x\.yaml, line 1: extends: this study is no file"):
        parse_spec("extends: good.yaml\n", "x.yaml")
