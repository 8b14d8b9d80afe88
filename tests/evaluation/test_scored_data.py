"""A data set's held-out conversations, scored: in groups, within a budget, the same ones for every model."""

import json

import pytest

from conftest import alpaca_rows, tiny_model
from unnorm.data.settings import DataSettings
from unnorm.data.sources import read
from unnorm.evaluation.held_out import score_data
from unnorm.evaluation.losses import by_group, compare, losses
from unnorm.foundation.errors import DataError, SettingsError


@pytest.fixture(scope="module")
def settings(tmp_path_factory) -> DataSettings:
    path = tmp_path_factory.mktemp("data") / "rows.json"
    rows = [{**row, "category": ("math", "prose", " ")[n % 3]} for n, row in enumerate(alpaca_rows(900))]
    path.write_text(json.dumps(rows))
    return DataSettings(source=str(path), template="alpaca-short", max_length=64)


def test_categories(settings, tokenizer):
    assert {c.category for c in read(settings, quiet=True).conversations} == {"math", "prose", None}
    scores, dropped, _ = score_data(tiny_model("gpt2"), settings, tokenizer, tokens=None, by="category", quiet=True)
    groups = by_group(scores)
    assert set(groups) == {"math", "prose", "unknown"}
    assert sum(group.conversations for group in groups.values()) == losses(scores).conversations
    by_source = score_data(tiny_model("gpt2"), settings, tokenizer, tokens=None, quiet=True).scores
    assert set(by_group(by_source)) == {settings.source}
    assert not dropped


def test_a_budget_takes_the_first_ones_and_models_share_them(settings, tokenizer):
    few = score_data(tiny_model("gpt2"), settings, tokenizer, tokens=300, quiet=True).scores
    many = score_data(tiny_model("llama"), settings, tokenizer, tokens=None, quiet=True).scores
    assert 1 < len(few.keys) < len(many.keys)
    assert few.keys.tolist() == many.keys.tolist()[: len(few.keys)]
    assert compare(few, many).conversations == len(few.keys)


def test_what_cannot_be_evaluated(settings, tokenizer):
    with pytest.raises(SettingsError, match="64 positions"):
        score_data(tiny_model("gpt2"), settings.model_copy(update={"max_length": 100}), tokenizer, quiet=True)
    with pytest.raises(DataError, match="nothing held out can be evaluated on"):
        score_data(tiny_model("gpt2"), settings.model_copy(update={"max_length": 3}), tokenizer, quiet=True)
