"""What preview and statistics say of a source."""

import json

from data.chats import chat
from unnorm.data.looks import preview, statistics
from unnorm.data.settings import DataSettings
from unnorm.data.sources import read


def settings_of(tmp_path, rows, **options) -> DataSettings:
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return DataSettings(source=str(path), **{"template": "plain", "max_length": 48, **options})


def pair(prompt, response):
    return {"prompt": prompt, "response": response}


def test_a_preview_shows_what_is_trained(tmp_path, tokenizer):
    settings = settings_of(tmp_path, [pair("q", "b")])
    (shown,) = preview([chat("u:red?", "a:blue", "u:green?", "a:stone")], settings, tokenizer)
    (row,) = shown.rows
    assert [(run.text, run.weight) for run in row] == [
        ("red?\n\n", 0), ("blue<|endoftext|>", 1), ("green?\n\n", 0), ("stone<|endoftext|>", 1),
    ]  # fmt: skip
    assert sum(run.tokens for run in row) == len(
        tokenizer("red?\n\n")["input_ids"] + tokenizer("blue")["input_ids"]
        + tokenizer("green?\n\n")["input_ids"] + tokenizer("stone")["input_ids"]
    ) + 2  # fmt: skip
    (shown,) = preview([chat("u:q", "a:" + "blue " * 60)], settings, tokenizer)
    assert (shown.rows, shown.dropped) == ([], ["longer than 48 tokens"])


def test_statistics(tmp_path, tokenizer):
    rows = [pair(f"Join red and blue {i}", f"red blue {i}") for i in range(20)]
    rows += [rows[0], rows[1], pair("q", ""), pair("long", "blue " * 60)]
    settings = settings_of(tmp_path, rows)
    found = statistics(read(settings, quiet=True), settings, tokenizer, quiet=True)
    assert found.rows == 24
    assert found.conversations == 23
    assert found.turns == {"user": 23, "assistant": 23}
    assert found.duplicates == 2
    assert found.dropped == {"no answer": 1, "longer than 48 tokens": 1}
    assert found.changed == {}
    assert found.encoded == 22
    lengths = [
        len(tokenizer(f"{r['prompt']}\n\n")["input_ids"] + tokenizer(r["response"])["input_ids"]) + 1 for r in rows
    ]
    del lengths[22]
    assert found.tokens == sum(lengths[:22])
    assert found.lengths["max"] == lengths[22] > 48
    assert found.trained == sum(len(tokenizer(r["response"])["input_ids"]) + 1 for r in rows[:22])
    assert sum(found.histogram["counts"]) + found.histogram["beyond"] == 23
    assert found.packing_efficiency == found.tokens / (found.packed_rows * 48)
