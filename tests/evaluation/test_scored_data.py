"""A data set's held-out conversations, scored: in groups, within a budget, the same ones for every model."""

import json

import pytest

from conftest import alpaca_rows, tiny_model
from unnorm.data.prepare import Source
from unnorm.data.settings import DataSettings
from unnorm.data.sources import read
from unnorm.evaluation.held_out import score_data
from unnorm.evaluation.losses import by_group, compare, losses
from unnorm.evaluation.scores import Item, score, score_rows
from unnorm.foundation.errors import DataError, SettingsError

ROUND = (("human", "Join red and blue"), ("gpt", "green lamp and stone"))


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


@pytest.mark.parametrize("packed", [True, False])
def test_pieces_of_one_conversation_are_one_where_it_is_resampled(packed, tokenizer, tmp_path, monkeypatch):
    rows = [
        {"conversations": [{"from": who, "value": f"{word} {n} {k}"} for k in range(6) for who, word in ROUND]}
        for n in range(40)
    ]
    path = tmp_path / "chats.json"
    path.write_text(json.dumps(rows))
    settings = DataSettings(source=str(path), template="alpaca-short", max_length=64, too_long="split", held_out=0.3)
    model = tiny_model("gpt2")
    monkeypatch.setattr("unnorm.evaluation.held_out.packing_is_clean", lambda model: packed)
    whole = score_data(model, settings, tokenizer, tokens=None, quiet=True)
    source = Source(settings, tokenizer, quiet=True)
    prepared = source.validation(10**6, packed=packed)
    pieces = [each for row in prepared.rows for each in row]
    assert len(pieces) > len(source.held_out) == len(whole.scores.keys) > 5
    of_rows = score_rows(model, prepared)
    assert len(of_rows.ids) == len(set(of_rows.ids.tolist())) == len(source.held_out)
    assert losses(whole.scores).conversations == len(source.held_out)
    # what is said of all tokens together stays: conversations alone are counted otherwise
    apart = score(model, None, map(Item, pieces), max_length=64, packed=packed, pad_id=0, tokens="trained")
    assert whole.tokens == of_rows.tokens == apart.tokens
    assert whole.loss == pytest.approx(apart.loss)
    for number in {piece.conversation for piece in pieces}:
        mine = [piece.conversation == number for piece in pieces]
        place = of_rows.keys.tolist().index(number)
        assert of_rows.trained[place] == pytest.approx(apart.trained[mine].sum(0))


def test_what_cannot_be_evaluated(settings, tokenizer):
    with pytest.raises(SettingsError, match="64 positions"):
        score_data(tiny_model("gpt2"), settings.model_copy(update={"max_length": 100}), tokenizer, quiet=True)
    with pytest.raises(DataError, match="nothing held out can be evaluated on"):
        score_data(tiny_model("gpt2"), settings.model_copy(update={"max_length": 3}), tokenizer, quiet=True)
