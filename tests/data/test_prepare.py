import pytest

from unnorm.data.prepare import Source
from unnorm.data.settings import DataSettings
from unnorm.foundation.errors import DataError, SettingsError


def source(data_file, tokenizer, **settings):
    options = {"template": "alpaca-short", "max_length": 64, **settings}
    return Source(DataSettings(source=data_file, **options), tokenizer, quiet=True)


def ids(rows):
    return [item.ids.tolist() for row in rows.rows for item in row]


def test_training_order_depends_on_the_seed_alone(data_file, tokenizer):
    first = source(data_file, tokenizer).train(1500, seed=1)
    assert ids(first) == ids(source(data_file, tokenizer).train(1500, seed=1))
    assert ids(first) != ids(source(data_file, tokenizer).train(1500, seed=2))
    assert 1500 <= first.tokens < 1500 + 64


def test_validation_is_the_same_for_every_seed_and_disjoint(data_file, tokenizer):
    one = source(data_file, tokenizer)
    held_out = {tuple(row) for row in ids(one.validation(10_000))}
    assert held_out
    assert not held_out & {tuple(row) for row in ids(one.train(100_000, seed=0))}


def test_a_small_source_is_gone_through_again_in_another_order(data_file, tokenizer):
    one = source(data_file, tokenizer)
    once = one.train(1, seed=0).tokens  # a single conversation
    assert once < 64
    everything = sum(len(row.ids) for row in one._encode(one.train_conversations, 10**9, "all"))
    twice = one.train(2 * everything, seed=0)
    assert twice.tokens >= 2 * everything
    seen = [tuple(row) for row in ids(twice)]
    assert len(set(seen)) * 2 == len(seen)


def test_padded_rows_hold_one_conversation_each(data_file, tokenizer):
    rows = source(data_file, tokenizer).train(1000, seed=0, packed=False)
    assert all(len(row) == 1 for row in rows.rows)
    assert "attention_mask" in next(rows.batches(4))


def test_what_cannot_be_used(data_file, tokenizer):
    with pytest.raises(DataError, match="fits into 4 tokens"):
        source(data_file, tokenizer, max_length=4).train(100, seed=0)
    with pytest.raises(SettingsError, match="Known templates"):
        source(data_file, tokenizer, template="chat")
    with pytest.raises(DataError, match="too few"):
        source(data_file, tokenizer, rows=2)
