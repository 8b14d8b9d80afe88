"""Several data sets as one text."""

import json

import pytest

from conftest import alpaca_rows
from unnorm.data.mixture import Mixture
from unnorm.data.settings import DataSettings
from unnorm.foundation.errors import SettingsError


@pytest.fixture
def files(tmp_path):
    found = {}
    for name, word in (("one", "one"), ("two", "two")):
        rows = [{**row, "output": f"{word} {row['output']}"} for row in alpaca_rows(120)]
        found[name] = tmp_path / f"{name}.json"
        found[name].write_text(json.dumps(rows))
    return found


def settings(path, **more):
    return DataSettings(source=str(path), max_length=64, template="alpaca-short", loss_on="all", **more)


def text_of(rows, tokenizer):
    return [tokenizer.decode(item.ids) for row in rows.rows for item in row]


def test_tokens_are_shared_by_weight_and_mixed(files, tokenizer):
    mixture = Mixture([(settings(files["one"]), 3.0), (settings(files["two"]), 1.0)], tokenizer, quiet=True)
    rows = mixture.train(2000, 0)
    assert [part.weight for part in mixture.parts] == [0.75, 0.25]
    for part, wanted in zip(mixture.parts, (1500, 500), strict=True):
        assert wanted <= part.tokens < wanted + 64
    assert rows.tokens == sum(part.tokens for part in mixture.parts)
    which = ["two" in text.rsplit("Response", 1)[-1] for text in text_of(rows, tokenizer)]
    assert 0 < which.index(True) < len(which) / 2  # not one after the other
    again = Mixture([(settings(files["one"]), 3.0), (settings(files["two"]), 1.0)], tokenizer, quiet=True)
    assert text_of(again.train(2000, 0), tokenizer) == text_of(rows, tokenizer)
    assert text_of(again.train(2000, 1), tokenizer) != text_of(rows, tokenizer)


def test_held_out_rows_are_not_among_those_learnt_from(files, tokenizer):
    mixture = Mixture([(settings(path), 1.0) for path in files.values()], tokenizer, quiet=True)
    held_out = set(text_of(mixture.held_out(400), tokenizer))
    assert held_out
    assert not held_out & set(text_of(mixture.train(10**5, 0), tokenizer))


def test_the_answers_of_held_out_rows_are_labelled_and_all_of_those_learnt_from(files, tokenizer):
    mixture = Mixture([(settings(files["one"]), 1.0)], tokenizer, quiet=True)
    said = [
        tokenizer.decode([i for i in item.labels if i != -100]) for row in mixture.held_out(400).rows for item in row
    ]
    assert said
    assert all(text.strip().startswith("one ") for text in said)
    learnt = [item for row in mixture.train(400, 0).rows for item in row]
    assert all(sum(label != -100 for label in item.labels) >= len(item.ids) - 1 for item in learnt)


def test_texts_without_turns_are_labelled_whole(tmp_path, tokenizer):
    novels = tmp_path / "novels.jsonl"
    novels.write_text("".join(json.dumps({"text": f"red and {i} " * 5}) + "\n" for i in range(60)))
    rows = Mixture([(settings(novels), 1.0)], tokenizer, quiet=True).held_out(100).rows
    assert all(sum(label != -100 for label in item.labels) >= len(item.ids) - 1 for row in rows for item in row)


def test_data_that_run_out_are_gone_through_again_or_not(files, tokenizer):
    mixture = Mixture([(settings(path), 1.0) for path in files.values()], tokenizer, quiet=True)
    assert mixture.train(50_000, 0).tokens >= 50_000
    assert all(part.passes > 2 for part in mixture.parts)
    stopped = mixture.train(50_000, 0, when_out="stop")
    assert all(part.passes <= 1 for part in mixture.parts)
    assert 0 < stopped.tokens < 20_000


@pytest.mark.parametrize("first", ["one", "two"])
def test_what_is_dropped_and_cut_is_counted_over_all_data_sets(files, tokenizer, first):
    long = [{**row, "output": "red " * 100} for row in alpaca_rows(60)]
    files["two"].write_text(json.dumps(alpaca_rows(60) + long))
    order = sorted(files.values(), key=lambda path: path != files[first])
    rows = Mixture([(settings(path), 1.0) for path in order], tokenizer, quiet=True).train(10**5, 0)
    assert 40 < rows.dropped["longer than 64 tokens"] <= 60
    cut = [(settings(path, too_long="keep-start"), 1.0) for path in order]
    assert 40 < Mixture(cut, tokenizer, quiet=True).train(10**5, 0).changed["cut to its first 64 tokens"] <= 60


def test_bad_mixtures(files, tokenizer):
    for wrong in ([], [(settings(files["one"]), 0.0)], [(settings(files["one"]), float("nan"))]):
        with pytest.raises(SettingsError, match="weight above 0"):
            Mixture(wrong, tokenizer, quiet=True)
    other = settings(files["two"]).model_copy(update={"max_length": 32})
    with pytest.raises(SettingsError, match="same max_length"):
        Mixture([(settings(files["one"]), 1.0), (other, 1.0)], tokenizer, quiet=True)
