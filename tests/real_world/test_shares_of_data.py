"""Data sets that are small for what is asked of them: what share is used, and how often, is said."""

import json
import warnings

import pytest

import unnorm
from cli.test_main import call, finetune_options
from conftest import tiny_model
from study.small_study import run_text, study_text
from study.test_cell import settings_of
from unnorm.data.prepare import Share, Source, warning_of_length
from unnorm.data.settings import DataSettings
from unnorm.foundation.errors import DataError
from unnorm.study.fine_tune import fine_tune
from unnorm.study.hooks import Hooks
from unnorm.study.spec import parse_spec
from unnorm.study.workbench import Workbench


@pytest.fixture(scope="module")
def few(tmp_path_factory) -> str:
    """200 rows, of which 10 are held out by default; every tenth is far too long."""
    path = tmp_path_factory.mktemp("few") / "rows.jsonl"
    rows = [{"prompt": f"say {i}", "response": f"{i} " * (1 if i % 10 else 200)} for i in range(200)]
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return str(path)


def source(path, tokenizer, **settings):
    return Source(DataSettings(source=path, template="plain", max_length=64, **settings), tokenizer, quiet=True)


def tokens_of(rows):
    return sum(len(item.ids) for row in rows.rows for item in row)


def test_what_was_dropped_belongs_to_the_rows_and_does_not_grow(few, tokenizer):
    one = source(few, tokenizer, held_out=0.5)
    in_training = sum(len(c.messages[1].content) > 100 for c in one.train_conversations)
    counts = [one.train(10**6, seed).dropped for seed in (0, 1, 2)]
    one.epoch_tokens()
    counts.append(one.train(10**6, 0).dropped)
    assert counts == [{"longer than 64 tokens": in_training}] * 4
    assert 0 < in_training < 20
    assert one.validation(10**6).dropped == {"longer than 64 tokens": 20 - in_training}
    assert one.reading.dropped == {}


def test_every_seed_of_a_study_says_the_same_counts(bases, few, tmp_path):
    bench, said = Workbench(quiet=True), []
    for seed in (0, 1, 2):
        lines: list[str] = []
        settings = settings_of(bases["gpt2"], few, seed=seed, arm="original", training={"tokens": 8000})
        (tmp_path / str(seed)).mkdir()
        fine_tune(settings, "cell", tmp_path / str(seed), bench, Hooks(say=lines.append, quiet=True))
        said.append([line for line in lines if line.startswith("dropped: ")])
    assert said == [["dropped: 20 longer than 64 tokens; changed: none"]] * 3


def test_how_often_the_data_is_gone_through(few, tokenizer):
    one = source(few, tokenizer)
    once = one.train(500, 0).share
    assert not once.whole
    assert once.passes == 1
    assert once.warning_of_training is None
    many = one.train(50_000, 0)
    epoch = tokens_of(one.train(one.epoch_tokens(), 0))
    assert epoch == one.epoch_tokens()
    assert many.share.passes == pytest.approx(tokens_of(many) / epoch)
    assert many.share.passes > 10
    usable = sum(len(c.messages[1].content) < 100 for c in one.train_conversations)
    assert (many.share.conversations, many.share.of) == (usable, len(one.train_conversations))
    assert many.share.trained == (
        f"{usable} of the {many.share.of} conversations to train on, gone through {many.share.passes:.1f} times"
    )
    assert f"gone through {many.share.passes:.1f} times to reach 50,000 tokens" in many.share.warning_of_training
    assert many.share.enough == pytest.approx(4 * epoch, abs=1)
    assert one.train(4 * epoch, 0).share.warning_of_training is None
    assert one.train(5 * epoch, 0).share.warning_of_training is not None


def test_what_share_is_evaluated_on(few, tokenizer):
    one = source(few, tokenizer)
    found = one.validation(2000)
    assert found.share.tokens == tokens_of(found) < 2000
    assert found.share.whole
    assert found.share.of == len(one.held_out)
    assert f"2,000 tokens were asked for to evaluate on, and the held-out part has {found.share.tokens}" in str(
        found.share.warning_of_held_out
    )
    enough = one.validation(20).share
    assert not enough.whole
    assert enough.warning_of_held_out is None
    assert enough.conversations < enough.of


def test_that_many_are_left_out_is_said(capsys, bases, few, tmp_path):
    assert warning_of_length({"longer than 64 tokens": 20, "empty output": 5}, 75, 64) is None
    found = warning_of_length({"longer than 64 tokens": 21}, 79, 64)
    assert found is not None
    assert "21 of 100 conversations are longer than 64 tokens and are left out" in found
    lines = [json.dumps({"prompt": f"say {i}", "response": f"{i} " * (1 if i % 2 else 200)}) for i in range(60)]
    (tmp_path / "long.jsonl").write_text("\n".join(lines))
    for data, said in ((tmp_path / "long.jsonl", True), (few, False)):
        out = tmp_path / f"out-{said}"
        code, _, err = call(capsys, *finetune_options(bases["gpt2"], data, out, "--tokens", 500, "--to", "original"))
        assert code == 0, err
        assert ("--too-long keep-start" in err) == said


def test_the_words():
    assert Share(100, 104, 7, 50, False).trained == "7 of the 50 conversations to train on, each once"
    assert (
        Share(100, 104, 7, 50, False).held_out == "104 of 100 tokens asked for, in 7 of the 50 conversations held out"
    )


def test_finetune_says_both(capsys, bases, few, tmp_path):
    code, _, err = call(
        capsys, *finetune_options(bases["gpt2"], few, tmp_path / "out", "--tokens", 20_000, "--to", "original")
    )
    assert code == 0, err
    assert "conversations to train on, gone through" in err
    assert "warning: the data is gone through" in err
    assert "of 300 tokens asked for, in " in err
    assert "warning: 300 tokens were asked for to evaluate on" in err


def test_a_study_says_both_once_when_it_is_planned_and_when_it_runs(capsys, bases, few, tmp_path):
    evaluation = {"every_tokens": 10**6, "tokens": 2000}
    text = study_text(bases["gpt2"], few, strategies=["frozen"], evaluation=evaluation)
    text = text.replace('"tokens": 1000', '"tokens": 20000')
    (tmp_path / "study.yaml").write_text(text)
    code, _, err = call(capsys, "study", "plan", tmp_path / "study.yaml", "--ledger", tmp_path / "ledger")
    assert code == 0, err
    assert err.count("rows: warning: the data is gone through") == 1
    assert err.count("rows: warning: 2,000 tokens were asked for to evaluate on") == 1
    said: list[str] = []
    run_text(
        study_text(bases["gpt2"], few, strategies=["frozen"], evaluation=evaluation), tmp_path / "l", say=said.append
    )
    assert [line.count("2,000 tokens were asked for to evaluate on") for line in said if "warning" in line] == [1]


def test_evaluate_says_it(capsys, bases, few):
    options = ("--data", few, "--template", "plain", "--max-length", 64)
    code, out, err = call(capsys, "evaluate", bases["gpt2"], *options, "--tokens", 2000, "--json")
    assert code == 0, err
    share = json.loads(out)["data"][few]["share"]
    assert share["asked"] == 2000
    assert 0 < share["tokens"] < 2000
    assert "warning: 2,000 tokens were asked for to evaluate on" in err
    code, out, err = call(capsys, "evaluate", bases["gpt2"], *options, "--tokens", 20, "--json")
    assert json.loads(out)["data"][few]["share"]["tokens"] >= 20
    assert "warning" not in err
    wider = ("--tokens", 2000, "--held-out", 0.5, "--json")
    code, out, _ = call(capsys, "evaluate", bases["gpt2"], *options, *wider)
    assert json.loads(out)["data"][few]["share"]["of"] > 5 * share["of"]


def test_the_python_call_warns(few, tokenizer):
    data = DataSettings(source=few, template="plain", max_length=64)
    with pytest.warns(UserWarning, match="2,000 tokens were asked for to evaluate on"):
        unnorm.evaluate(tiny_model("gpt2"), data, tokenizer, tokens=2000, quiet=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        unnorm.evaluate(tiny_model("gpt2"), data, tokenizer, tokens=20, quiet=True)


def test_the_held_out_share_is_a_setting_in_the_hash_only_where_it_is_another(few, tokenizer):
    default, half, tenth = (source(few, tokenizer, **s) for s in ({}, {"held_out": 0.5}, {"held_out": 0.1}))
    assert default.encoding == source(few, tokenizer, held_out=0.05).encoding
    assert "held_out" not in default.encoding
    assert half.encoding == {**default.encoding, "held_out": 0.5}
    assert 70 < len(half.held_out) < 130
    held = [{c.row for c in each.held_out} for each in (default, tenth, half)]
    assert held[0] < held[1] < held[2]
    assert not {c.row for c in half.train_conversations} & held[2]
    inner = source(few, tokenizer, held_out=0.5, for_search=True)
    assert 0.3 < len(inner.held_out) / len(half.train_conversations) < 0.7
    with pytest.raises(DataError, match=r"too few to hold 1e-06 of them out.*held_out"):
        source(few, tokenizer, held_out=1e-6)


@pytest.mark.parametrize("share", [0, 1, 5, -0.1, "many", None])
def test_a_share_that_is_none_is_refused_with_its_line(share):
    text = f"name: x\nmodels: [m]\ndatasets:\n  - source: alpaca\n    held_out: {json.dumps(share)}\narms: [original]\n"
    with pytest.raises(unnorm.UnnormError, match=r"line 5.*held_out"):
        parse_spec(text, "study.yaml")
