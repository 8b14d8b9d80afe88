"""Study files as people write, save and break them: whatever stands in one, the answer is one message with its line."""

import copy
import json
import re
import time
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from unnorm.cli.main import run
from unnorm.foundation.errors import UnnormError
from unnorm.study.spec import parse_spec, read_spec

STUDY = """\
name: try
models: [some/model]
datasets:
  - {source: alpaca, rows: 100, loss_on: answer, policies: {html: keep}}
arms: [original, dyt-bare, {id: mine, norm: dyt, alpha: channel, calibrate: {tokens: 64}, recover: {tokens: 4}}]
strategies: [frozen, full]
seeds: [0, 1]
training:
  tokens: 1_000_000
  learning_rate: {frozen: 3.0e-3, full: 4.0e-4}
  lora: {r: 8, targets: auto}
after: {completions: {prompts: builtin}, judge: {kind: likelihood, margin: 0.1}, latency: {budget_seconds: 5}}
exclude:
  - {arm: mine, strategy: full}
overrides:
  - where: {arm: dyt-bare}
    set: {training: {warmup: 0.2}, evaluation: {tokens: 7}, arm: {alpha_init: 0.7}}
"""


def refusal(text: str) -> str:
    with pytest.raises(UnnormError) as caught:
        parse_spec(text, "x.yaml")
    assert caught.value.exit_code == 2
    return str(caught.value)


def changed(old: str, new: str) -> str:
    assert old in STUDY
    return STUDY.replace(old, new)


def test_the_study_that_is_broken_below_is_good():
    assert len(parse_spec(STUDY, "x.yaml").cells()) == 2 * 2 * 3 - 2


@pytest.mark.parametrize(
    ("rate", "message"),
    [
        ("0", "line 10: training.learning_rate: must be above 0, not 0"),
        ("-0.001", "line 10: training.learning_rate: must be above 0, not -0.001"),
        ("{frozen: 0, full: 1.0}", "line 10: training.learning_rate.frozen: must be above 0, not 0"),
        (".inf", "line 10: training.learning_rate: must be a finite number, not inf"),
        (".nan", "line 10: training.learning_rate: must be a finite number, not nan"),
        ("{frozen: .nan, full: 1.0}", "line 10: training.learning_rate.frozen: must be a finite number, not nan"),
        ("true", "line 10: training.learning_rate: must be a number, not true"),
    ],
)
def test_a_learning_rate_that_is_none_is_never_replaced_by_the_default(rate, message):
    assert message in refusal(changed("{frozen: 3.0e-3, full: 4.0e-4}", rate))


def test_a_rate_of_zero_in_an_override_or_a_search_is_refused_too():
    assert "training.learning_rate: must be above 0" in refusal(changed("{warmup: 0.2}", "{learning_rate: 0}"))
    text = changed("  learning_rate: {frozen: 3.0e-3, full: 4.0e-4}\n", "") + "tune: {learning_rate: [0, 0.1]}\n"
    assert "tune.learning_rate.0: must be above 0, not 0" in refusal(text)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("dyt-bare,", "dty-bare,", "line 5: arms.1: there is no arm 'dty-bare'. Did you mean 'dyt-bare'?"),
        ("norm: dyt", "norm: dit", "line 5: arms.2.norm: there is no norm named 'dit'. Did you mean 'dyt'?"),
        (
            "alpha: channel",
            "alfa: channel",
            "line 5: arms.2.alfa: norm 'dyt', setting 'alfa': there is no such key. Di",
        ),
        ("calibrate: {", "calibrat: {", "Did you mean 'calibrate'?"),
        ("{tokens: 64}", "{tokns: 64}", "line 5: arms.2.calibrate.tokns: arm 'mine': calibrate takes"),
        (
            "{tokens: 4}",
            "{tokens: 0}",
            "line 5: arms.2.recover.tokens: arm 'mine', recover.tokens: must be above 0, not 0",
        ),
        ("{tokens: 4}", "{tokens: true}", "recover.tokens: must be a number, not true"),
        ("{tokens: 4}", "{tokens: }", "recover.tokens has no value"),
        ("tokens: 1_000_000", "tokenss: 1", "line 9: training.tokenss: there is no such key. Did you mean 'tokens'?"),
        ("tokens: 1_000_000", "size: 1", "line 9: training.size: there is no such key. There are: tokens, "),
        (
            "[frozen, full]",
            "[frozen, selektive]",
            "strategies.1: must be one of frozen, selective, full, not 'selektive'",
        ),
        ("[frozen, full]", "frozen", "line 6: strategies: must be a list, not 'frozen'"),
        ("seeds: [0, 1]", "seeds: [true]", "line 7: seeds.0: must be a number, not true"),
        ("seeds: [0, 1]", "seeds: [-1]", "line 7: seeds.0: must be 0 or more, not -1"),
        ("seeds: [0, 1]", "seeds: [4294967296]", "line 7: seeds.0: must be below 4294967296, not 4294967296"),
        ("seeds: [0, 1]", "seeds: [1.5]", "line 7: seeds.0: must be a whole number, not 1.5"),
        ("seeds: [0, 1]", "seeds: [0x" + "f" * 6000 + "]", "must be below 4294967296, not a number of thousands"),
        ("seeds: [0, 1]", "seeds:", "line 7: seeds: must be a list, not nothing"),
        ("name: try", "name: 2024", "line 1: name: must be text, not 2024. Put it in quotes."),
        ("name: try", "name: a/b", "line 1: name: must be letters, digits, dots, dashes and underscores"),
        ("loss_on: answer", "loss_on: [user, robot]", "datasets.0.loss_on.1: must be one of system, user"),
        ("loss_on: answer", "loss_on: answers", "must be one of answer, last, all or a list, not 'answers'. Did"),
        ("targets: auto", "targets: q_proj", "line 11: training.lora.targets: must be auto or a list, not 'q_proj'"),
        ("html: keep", "html: kepe", "policies.html: must be one of markdown, keep, not 'kepe'. Did you mean 'keep'?"),
        ("{arm: mine,", "{arm: nine,", "it has original, dyt-bare, mine. Did you mean 'mine'?"),
        ("tokens: 1_000_000", "batch_tokens: 100", "line 9: training.batch_tokens: batch_tokens (100) must be a mult"),
        ("tokens: 1_000_000", "max_length: 300", "line 9: training.max_length: batch_tokens (4096) must be a mult"),
        ("{warmup: 0.2}", "{max_length: 300}", "line 17: overrides.0.set.training.max_length: batch_tokens"),
        ("prompts: builtin", "temperature: hot", "line 12: after.completions.temperature: a temperature is greedy"),
        ("margin: 0.1", "margin: .inf", "line 12: after.judge.margin: must be a finite number, not inf"),
        ("[some/model]", "['']", "line 2: models.0: must be text of 1 or more characters, not ''"),
        ("some/model", "m" * 300, "line 2: models.0: 'mmm"),
        ("source: alpaca", "source: " + "d" * 300, "line 4: datasets.0.source: 'ddd"),
        ("seeds: [0, 1]", f"seeds: {list(range(20_000))}", "line 7: seeds: the study has 120,000 cells"),
    ],
)
def test_a_mistake_is_named_in_plain_words_with_line_and_key(old, new, message):
    assert message in refusal(changed(old, new))


def test_variables_in_a_flow_list_want_quotes_and_the_docs_example_has_them(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "models" / "mine").mkdir(parents=True)
    message = refusal(changed("[some/model]", "[${HOME}/model]"))
    assert "line 2: not valid YAML" in message
    assert message.endswith("Put what holds ${...} in quotes.")
    docs = (Path(__file__).parents[2] / "docs" / "studies.md").read_text(encoding="utf-8")
    example = re.search(r"```yaml\n(.*?)```", docs, re.DOTALL)[1]
    assert parse_spec(example, "docs").models == ["distilgpt2", f"{tmp_path}/models/mine"]


def test_a_number_is_a_temperature():
    cells = parse_spec(changed("prompts: builtin", "temperature: 0.7"), "x.yaml")
    assert cells.after.completions.temperature == "0.7"


BOMB = "a: &a [x,x,x,x,x,x,x,x]\n" + "".join(
    f"{after}: &{after} [{', '.join([f'*{before}'] * 8)}]\n"
    for before, after in zip("abcdefgh", "bcdefghi", strict=True)
)
CHAIN = "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}]\n" for n in range(1, 500))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1: there is nothing in it"),
        ("# later\n", "line 1: there is nothing in it"),
        ("\n- a\n", "line 2: a study is a mapping with name, models, datasets and arms"),
        ("name: try\n[a, b]: c\n", "line 2: a key must be text, not a list or a mapping"),
        ("name: try\n5: c\n", "line 2: the key 5 is no text to YAML"),
        ("name: try\nseeds: &a [*a]\n", "line 2: this holds an alias of itself"),
        ("name: try\nseeds: &a {x: {y: *a}}\n", "line 2: this holds an alias of itself"),
        ("name: try\n<<: &a {<<: *a}\n", "line 2: this holds an alias of itself"),
        (BOMB, "line 6: with its aliases written out, this holds over 50,000 values"),
        (CHAIN, "with its aliases written out, this is nested too deeply"),
        ("name: try\nseeds: " + "[" * 5000 + "]" * 5000, "line 2: not valid YAML: nested too deeply"),
        ("name: try\nname: again\n", "line 2: name stands a second time, after line 1"),
        ("name: try\nseeds: [0]\n---\nname: b\n", "line 3: not valid YAML: a second document begins here"),
        ("training:\n\ttokens: 1\n", "line 2: not valid YAML: a tab stands where YAML wants spaces"),
        ("name: try\nseeds: [9" + "9" * 5000 + "]\n", "line 2: not valid YAML: '99999"),
        ("name: try\nseeds: 2024-13-45\n", "line 2: not valid YAML: '2024-13-45' is no timestamp"),
        ("name: try\nseeds: !!int ''\n", "line 2: not valid YAML: '' is no int"),
        ("name: try\nseeds: !!python/object:os.system x\n", "line 2: not valid YAML: could not determine"),
        ("name: try\nmodels: [a\x01]\n", "line 2: not valid YAML: the character U+0001 cannot stand in it"),
        ('name: try\nmodels: ["a\\0b"]\n', "line 2: the character U+0000 cannot stand in it"),
        ("name: try\nmodels: ['${NOT_SET_ANYWHERE}']\n", "line 2: ${NOT_SET_ANYWHERE} is used, which is not set"),
    ],
)
def test_yaml_that_is_none_of_a_studys(text, message):
    started = time.perf_counter()
    assert message in refusal(text)
    assert time.perf_counter() - started < 5


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (STUDY.encode("utf-16"), "line 1: this is UTF-16. Save the file as UTF-8"),
        (STUDY.encode("utf-32"), "line 1: this is UTF-32. Save the file as UTF-8"),
        (STUDY.replace("arms:", "# à la carte\narms:").encode("latin-1"), "line 5: the byte 0xe0 is not UTF-8"),
        (bytes(range(256)) * 10, "is not UTF-8"),
        (b"PAR1\x00\x01", "line 1: not valid YAML: the character U+0000"),
        (b"# " + b"x" * (1 << 20), "larger than 1 MiB, which no study file is"),
    ],
)
def test_a_file_that_is_no_utf_8_text_is_the_users_mistake(tmp_path, capsys, content, message):
    file = tmp_path / "study.yaml"
    file.write_bytes(content)
    for verb in ("plan", "run", "status", "table"):
        assert run(["study", verb, str(file), "--ledger", str(tmp_path / "ledger")]) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "ledger").exists()


def test_a_file_with_a_byte_order_mark_and_windows_line_ends_is_read(tmp_path):
    file = tmp_path / "study.yaml"
    file.write_bytes(b"\xef\xbb\xbf" + STUDY.replace("\n", "\r\n").encode())
    assert read_spec(file)[0].name == "try"


def test_a_folder_or_nothing_as_the_study_file(tmp_path, capsys):
    assert run(["study", "plan", str(tmp_path)]) == 2
    assert "is a folder" in capsys.readouterr().err
    assert run(["study", "plan", str(tmp_path / ("x" * 300))]) == 2
    assert "unexpected" not in capsys.readouterr().err


def test_a_merged_mapping_is_read_and_its_mistakes_have_their_own_line():
    text = changed("training:\n", "training:\n  <<: &more {warmup: 0.3}\n")
    assert parse_spec(text, "x.yaml").training.warmup == 0.3
    assert "line 9: training.warmup: must be below 1" in refusal(text.replace("0.3", "3"))


def test_paths_and_lengths_that_show_when_the_study_is_planned_have_their_line(bases, data_file, tmp_path, capsys):
    good = {
        "name": "small",
        "models": [bases["gpt2"]],
        "datasets": [{"source": data_file, "template": "alpaca-short"}],
        "arms": ["original"],
        "training": {"tokens": 1000, "max_length": 64, "batch_tokens": 128, "precision": "fp32"},
        "after": {"completions": {"prompts": "builtin"}},
    }
    broken = {
        "models: 1": {"models": [bases["gpt2"], str(tmp_path / "no-model")]},
        "datasets: 1": {"datasets": [good["datasets"][0], {"source": str(tmp_path / "no-data.json")}]},
        "training.max_length": {"training": {**good["training"], "max_length": 128}},
        "after.completions.prompts": {"after": {"completions": {"prompts": str(tmp_path / "no-prompts.jsonl")}}},
    }
    file = tmp_path / "study.yaml"
    for place, change in broken.items():
        content = {**good, **change}
        text = yaml.safe_dump(content, sort_keys=False)
        file.write_text(text)
        key, _, index = place.partition(": ")
        lines = text.splitlines()
        line = next(n for n, each in enumerate(lines, 1) if each.strip().startswith(key.rpartition(".")[2] + ":"))
        if index:  # each entry of a list begins with a dash
            line = [n for n, each in enumerate(lines, 1) if each.startswith("- ") and n > line][int(index)]
        assert run(["study", "run", str(file), "--ledger", str(tmp_path / "ledger")]) == 2
        assert f"{file}, line {line}: {place.replace(': ', '.')}: " in capsys.readouterr().err.replace("\n", " ")


PLAIN = yaml.safe_load(STUDY)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=12)
    | st.sampled_from(["original", "dyt", "frozen", "auto", "mine", "chat", "~x", "${", "0", "1e999", "a" * 400, "-"])
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8) | SCALARS.map(str), inner, max_size=4)
    ),
    max_leaves=12,
)


def places(value, at=()):
    """Every place in a study, from the root down."""
    yield at
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in inner:
        yield from places(part, (*at, key))


def put(value, at, new):
    if not at:
        return new
    value = copy.copy(value)
    value[at[0]] = put(value[at[0]], at[1:], new)
    return value


def judged(text: str, keyed: bool) -> None:
    """Either it is a study, or one message of ours says where it is not."""
    error = mistake_in(text)
    if error is None:
        return
    message = str(error)
    assert error.exit_code == 2
    found = re.match(r"x\.yaml, line (\d+): ", message)
    assert found, message
    assert 1 <= int(found[1]) <= text.count("\n") + 1
    for pydantics in ("Input should be", "Value error", "Field required", "valid list", "[type="):
        assert pydantics not in message
    if keyed:  # the key that it is about, or what is wrong with the text itself
        at_key = re.match(r"x\.yaml, line \d+: .+?: ", message, re.DOTALL)  # a key may hold ":" and line ends
        assert at_key or re.search(r"a study is a mapping|U\+0000|which is not set|the key |second time", message), (
            message
        )


def mistake_in(text: str) -> UnnormError | None:
    try:
        parse_spec(text, "x.yaml").cells()
    except UnnormError as error:
        return error
    return None


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(sorted(places(PLAIN), key=str)), VALUES)
def test_any_value_at_any_place(place, value):
    judged(yaml.safe_dump(put(PLAIN, place, value), sort_keys=False, allow_unicode=True), keyed=True)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(sorted(places(PLAIN), key=str)), VALUES)
def test_any_json_value_at_any_place(place, value):
    judged(json.dumps(put(PLAIN, place, value), ensure_ascii=True), keyed=False)


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from([at for at in places(PLAIN) if isinstance(at[-1] if at else 0, str)]),
    st.text(min_size=1, max_size=10) | st.sampled_from(["tokens", "id", "norm", "seed", "set"]),
    VALUES,
)
def test_any_key_beside_any_other(place, key, value):
    beside = PLAIN
    for part in place[:-1]:
        beside = beside[part]
    judged(yaml.safe_dump(put(PLAIN, place[:-1], {**beside, key: value}), sort_keys=False), keyed=True)


@settings(max_examples=400, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(0, len(STUDY)),
            st.integers(0, 12),
            st.text(st.sampled_from("abz019 \n\t:-[]{}&*!|>'\"%@`#?,.<~\0é\ud800"), max_size=4),
        ),
        min_size=1,
        max_size=4,
    )
)
def test_any_mutation_of_the_text(changes):
    text = STUDY
    for at, cut, new in changes:
        text = text[:at] + new + text[at + cut :]
    judged(text, keyed=False)
