import json

import pytest
import torch

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
    everything = one.epoch_tokens()
    twice = one.train(2 * everything, seed=0)
    assert twice.tokens >= 2 * everything
    seen = [tuple(row) for row in ids(twice)]
    assert len(set(seen)) * 2 == len(seen)


def test_counts_do_not_grow_from_seed_to_seed(data_file, tokenizer):
    """Several seeds ask one source for rows: each is told of its own rows, and of the source's once."""
    one = source(data_file, tokenizer, max_length=30)
    first, read = one.train(10**6, seed=0), (dict(one.reading.dropped), dict(one.reading.changed))
    assert first.dropped["longer than 30 tokens"] > 0
    held_out = one.validation(10**6).dropped
    for seed in (0, 1, 2):
        assert one.train(10**6, seed=seed).dropped == first.dropped
        assert one.validation(10**6).dropped == held_out
        one.epoch_tokens()
    assert (one.reading.dropped, one.reading.changed) == read


def test_pieces_of_long_texts_do_not_make_a_part_look_used_up(tmp_path, tokenizer):
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps({"text": f"red {i} " * 60}) + "\n" for i in range(100)))
    texts = source(str(path), tokenizer, too_long="split")
    some, all_of_them = (texts.train(int(share * texts.epoch_tokens()), seed=0).share for share in (0.9, 1.1))
    assert not some.whole
    assert some.trained.endswith("each once")
    assert all_of_them.whole
    assert texts.validation(10**6).share.whole


def test_padded_rows_hold_one_conversation_each(data_file, tokenizer):
    rows = source(data_file, tokenizer).train(1000, seed=0, packed=False)
    assert all(len(row) == 1 for row in rows.rows)
    assert "attention_mask" in next(rows.batches(4))


def test_what_cannot_be_used(data_file, tokenizer):
    with pytest.raises(DataError, match="fits into 4 tokens"):
        source(data_file, tokenizer, max_length=4).train(100, seed=0)
    with pytest.raises(SettingsError, match="Known templates"):
        source(data_file, tokenizer, template="chat")
    with pytest.raises(DataError, match="nothing in it is trained"):
        source(data_file, tokenizer, loss_on=("tool",)).train(100, seed=0)
    with pytest.raises(DataError, match="too few"):
        source(data_file, tokenizer, rows=2)


def test_a_small_share_of_the_real_alpaca_packs_tightly(shared):
    from unnorm.surgery.base import load_tokenizer

    path = str(shared / "data" / "alpaca" / "alpaca_data.json")
    settings = DataSettings(source="alpaca", path=path, rows=6000, max_length=512)
    rows = Source(settings, load_tokenizer(str(shared / "bases" / "neox-4m")), quiet=True).validation(10**9)
    assert rows.tokens / (len(rows.rows) * 512) > 0.97  # benchmarks/data.py measures all rows


def test_what_hashes_of_encodings_hold_is_pinned():
    """A cell is named by it: settings that are newer stand in it only where they are not at their defaults."""
    settings = DataSettings(source="x", path="y", rows=3, policies={"html": "keep"})
    assert settings.encoding("alpaca") == {"template": "alpaca", "max_length": 256, "loss_on": "answer"}
    newer = DataSettings(source="x", too_long="split", loss_on=["user", "assistant"]).encoding("t")
    assert newer == {"template": "t", "max_length": 256, "loss_on": ["user", "assistant"], "too_long": "split"}


def test_weights_of_turns_reach_the_batches(tmp_path, tokenizer):
    path = tmp_path / "rows.jsonl"
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"Join {i}"},
                {"role": "assistant", "content": "red", "weight": w},
            ]
        }
        for i, w in enumerate([0.5, 1] * 100)
    ]
    path.write_text("\n".join(json.dumps(row) for row in rows))
    one = source(str(path), tokenizer)
    assert all("weights" in batch for batch in one.train(1000, seed=0).batches(4))
    for row in rows:
        row["messages"][1]["weight"] = 1
    path.write_text("\n".join(json.dumps(row) for row in rows))
    assert "weights" not in next(source(str(path), tokenizer).train(1000, seed=0).batches(4))


def test_other_tokens_are_trained_of_a_source_that_is_read_once(data_file, tokenizer, monkeypatch):
    wanted = [source(data_file, tokenizer, loss_on=loss_on) for loss_on in ("answer", "all")]
    monkeypatch.setattr("unnorm.data.prepare.read", lambda *args, **more: pytest.fail("read again"))
    found = [wanted[0].with_loss_on("answer"), wanted[0].with_loss_on("all")]
    trained = []
    for a, b in zip(found, wanted, strict=True):
        assert a.encoding == b.encoding
        rows = a.validation(300)
        labels = rows.collate(rows.rows)["labels"]
        other = b.validation(300)
        assert torch.equal(labels, other.collate(other.rows)["labels"])
        trained.append(int((labels >= 0).sum()))
    assert trained[0] < trained[1]
