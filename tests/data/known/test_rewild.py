import json
from collections import Counter

import numpy as np
import pytest

from data.chats import chat, said
from unnorm.data.known import rewild
from unnorm.data.settings import DataSettings
from unnorm.data.sources import read
from unnorm.foundation.errors import DataError

NULLS = dict.fromkeys(("country", "hashed_ip", "header", "redacted", "state", "timestamp", "toxic", "turn_identifier"))


def wildchat(number: int, *turns: str, language: str = "English"):
    roles = {"u": "user", "a": "assistant"}
    conversation = [{"role": roles[turn[0]], "content": turn[2:], "language": language, **NULLS} for turn in turns]
    return {"conversation_hash": f"{number:x}", "conversation": conversation, "language": language, "toxic": False}


MMLU = {"question": "What is 2 + 2?\nA. 3\nB. 4\nC. 5\nD. 6", "category": "auxiliary_train", "answer": 1}
ALGEBRA = {
    "id": "a",
    "prompt": "Solve x + 1 = 2.",
    "messages": [{"role": "user", "content": "Solve x + 1 = 2."}, {"role": "assistant", "content": "x = 1"}],
}


def parts() -> dict[str, list[dict]]:
    chats = [wildchat(i, f"u:q{i}", f"a:b{i}", "u:more", "a:c") for i in range(400)]
    chats[7] = wildchat(7, "u:Привет", "a:Hello, как дела?", language="Russian")
    chats[8] = wildchat(8, "u:q", "a:")
    return {"wildchat": chats, "mmlu": [MMLU] * 30, "algebra": [ALGEBRA] * 20}


@pytest.fixture
def folder(tmp_path):
    for name, rows in parts().items():
        (tmp_path / f"{name}.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    return tmp_path


def of_part(reading, part):
    return sorted((c for c in reading.conversations if c.source.endswith(part)), key=lambda c: c.row)


def test_the_mix_from_local_parts(folder):
    reading = read(DataSettings(source="rewild", path=str(folder)), quiet=True)
    drawn = of_part(reading, "wildchat")
    assert reading.rows == 450
    assert 70 < len(drawn) < 130
    assert reading.dropped == {"no answer": 1, "not drawn for the mix": 399 - len(drawn)}
    assert len(of_part(reading, "mmlu")) == 30
    assert said(of_part(reading, "mmlu")[0])[1] == "a:B"
    assert len(of_part(reading, "algebra")) == 20
    assert {len(c.messages) for c in drawn} == {4}
    assert set(reading.formats.values()) == {"messages", "multiple-choice"}
    few = read(DataSettings(source="rewild", path=str(folder), rows=60), quiet=True)
    assert few.conversations == reading.conversations[:60]
    assert all(of_part(few, part) for part in rewild.REWILD.parts)
    again = read(DataSettings(source="rewild", path=str(folder)), quiet=True)
    assert again.conversations == reading.conversations


def test_the_reduced_mix_is_of_first_pairs_and_keeps_mixed_languages(folder):
    reading = read(DataSettings(source="rewild-reduced", path=str(folder)), quiet=True)
    drawn = of_part(reading, "wildchat")
    assert len(drawn) == 399  # fewer than are asked for: all
    assert all(len(c.messages) == 2 for c in reading.conversations)
    assert said(drawn[7]) == ["u:Привет", "a:Hello, как дела?"]
    assert drawn[7].language == "Russian"
    only = DataSettings(source="rewild-reduced", path=str(folder), policies={"languages": ["English"]})
    with pytest.raises(DataError, match="no row of rewild-reduced/mmlu can be used"):  # MMLU names no language
        read(only, quiet=True)


def test_a_part_that_is_not_there(folder):
    (folder / "algebra.jsonl").unlink()
    with pytest.raises(DataError, match="of 'algebra' there are 0"):
        read(DataSettings(source="rewild", path=str(folder)), quiet=True)


def test_a_sample_is_fair_in_order_and_counted():
    rows = [chat(f"u:{i}", "a:b") for i in range(60)]
    dropped = Counter()
    taken = rewild.sample(iter(rows), dropped, 20)
    places = [rows.index(row) for row in taken]
    assert places == sorted(places)
    assert len(set(places)) == 20
    assert dropped == {"not drawn for the mix": 40}
    assert rewild.sample(iter(rows), Counter(), 20) == taken


def test_every_row_of_a_sample_is_equally_likely(monkeypatch):
    rows = [chat(f"u:{i}", "a:b") for i in range(12)]
    hits = np.zeros(12)
    for seed in range(2000):
        monkeypatch.setattr(rewild, "_SEED", seed)
        hits[[int(c.messages[0].content) for c in rewild.sample(iter(rows), Counter(), 3)]] += 1
    # 3 of 12: 500 hits each are expected, with a standard deviation of 19
    assert abs(hits - 500).max() < 90


def test_first_pair():
    assert said(rewild.first_pair(chat("s:x", "u:q", "a:b", "u:r", "a:c"))) == ["u:q", "a:b"]
    assert rewild.first_pair(chat("u:q", "t:x", "a:b")) == "no question that is answered at once"
