from collections import Counter
from pathlib import Path

import numpy as np
import pytest

import warm
from unnorm.data.encode import Encoded, Encoding
from unnorm.data.encoded_cache import cached, tokenizer_hash
from unnorm.data.prepare import Source
from unnorm.data.settings import DataSettings
from unnorm.metrics.token_sums import IGNORED


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("UNNORM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "encoded"


def some(weighted=False) -> Encoding:
    rows = []
    for length in (3, 1, 7):
        ids = np.arange(100, 100 + length, dtype=np.int64)
        labels = np.where(np.arange(length) % 2, ids, IGNORED)
        weights = np.where(labels != IGNORED, 0.5, 0).astype(np.float32) if weighted and length != 3 else None
        rows.append(Encoded(ids, labels, weights, None if length == 1 else length))
    return Encoding(rows, Counter({"long": 2}), Counter())


def fail() -> Encoding:
    raise AssertionError("it was made before")


@pytest.mark.parametrize("weighted", [False, True])
def test_what_comes_back_is_what_was_made(weighted):
    made = cached({"a": 1}, lambda: some(weighted))
    found = cached({"a": 1}, fail)
    for one, other in zip(made.rows, found.rows, strict=True):
        assert one.ids.tolist() == other.ids.tolist()
        assert one.labels.tolist() == other.labels.tolist()
        assert (one.weights is None) == (other.weights is None)
        assert one.weights is None or one.weights.tolist() == other.weights.tolist()
        assert other.ids.dtype == np.int64
        assert other.conversation == one.conversation
    assert found.dropped == {"long": 2}
    assert cached({"a": 2}, lambda: Encoding([], Counter(), Counter())).rows == []
    assert cached({"a": 2}, fail).rows == []


def test_a_damaged_file_is_made_again(cache):
    cached({}, some)
    (file,) = cache.glob("*.safetensors")
    for damage in (file.read_bytes()[:-8], b"", b"nonsense"):
        file.write_bytes(damage)
        assert len(cached({}, some).rows) == 3
        assert len(cached({}, fail).rows) == 3


def test_two_processes_that_want_the_same_wait_and_make_it_once(tmp_path):
    program = (
        "import sys, time\nfrom collections import Counter\nfrom pathlib import Path\nimport numpy as np\n"
        "from unnorm.data.encode import Encoded, Encoding\nfrom unnorm.data.encoded_cache import cached\n"
        "def make():\n"
        "    with open(sys.argv[1], 'a') as log: log.write('made\\n')\n"
        "    time.sleep(0.5)\n"
        "    return Encoding([Encoded(np.arange(5), np.arange(5))], Counter(), Counter())\n"
        "assert cached({'same': 1}, make).rows[0].ids.tolist() == [0, 1, 2, 3, 4]\n"
    )
    log = tmp_path / "log"
    processes = [warm.start(program, log) for _ in range(2)]
    assert [process.wait(60) for process in processes] == [0, 0]
    assert log.read_text() == "made\n"


def test_whatever_shapes_the_rows_names_the_file(cache, data_file, tokenizer, tmp_path):
    own = tmp_path / "own.jinja"
    own.write_text("{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}")
    base = {"template": "alpaca-short", "max_length": 64}

    def make(seed=0, tokens=300, **changes):
        Source(DataSettings(source=data_file, **{**base, **changes}), tokenizer, quiet=True).train(tokens, seed)
        return len(list(cache.glob("*.safetensors")))

    assert make() == make() == 1
    found = [
        make(seed=1),
        make(tokens=400),
        make(template="plain"),
        make(max_length=48),
        make(loss_on="all"),
        make(too_long="split"),
        make(rows=100),
        make(template=str(own)),
    ]
    own.write_text("{% for m in messages %}{{ m.role }}: {{ m.content }}\n\n{% endfor %}")
    found.append(make(template=str(own)))
    assert found == list(range(2, 11))


def test_the_hash_of_a_tokenizer_is_of_what_it_does(tokenizer):
    import copy

    other = copy.deepcopy(tokenizer)
    assert tokenizer_hash(other) == tokenizer_hash(tokenizer)
    other.add_tokens(["a new one"])
    assert tokenizer_hash(other) != tokenizer_hash(tokenizer)
