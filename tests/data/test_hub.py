"""Data sets of the hub, read from a server on this machine in files of the real ones' schemas."""

import json
import os
import subprocess
import sys

import pytest

from data.known.test_rewild import parts
from hub_server import Hub, Repository, commit_of, serve
from hub_stand_ins import parquet
from unnorm.data.known import rewild
from unnorm.data.sources import KNOWN


def repositories() -> dict[str, dict[str, bytes]]:
    rows = parts()
    alpaca = [
        {
            "instruction": f"Add {i}",
            "input": "noinput" if i == 3 else "",
            "output": "" if i == 4 else f"{i}",
            "text": "x",
        }
        for i in range(10)
    ]
    sharegpt = [
        {"id": f"c{i}_0", "conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": f"b{i}"}]}
        for i in range(5)
    ]
    return {
        KNOWN["alpaca"].name: {"data/train-00000-of-00001.parquet": parquet(alpaca)},
        KNOWN["sharegpt"].name: {
            KNOWN["sharegpt"].files: json.dumps(sharegpt).encode(),
            "HTML_cleaned_raw_dataset/other.json": b'[{"not": "to be read"}]',
        },
        rewild.REWILD.parts["wildchat"].where.name: {
            "data/train-00000-of-00002.parquet": parquet(rows["wildchat"][:200]),
            "data/train-00001-of-00002.parquet": parquet(rows["wildchat"][200:]),
        },
        rewild.REWILD.parts["mmlu"].where.name: {
            "data/auxiliary_train-00000-of-00001.parquet": parquet(rows["mmlu"]),
            "data/test-00000-of-00001.parquet": parquet(rows["mmlu"][:2]),
        },
        rewild.REWILD.parts["algebra"].where.name: {"data/train-00000-of-00001.parquet": parquet(rows["algebra"])},
        "somebody/chats": {
            "small/train.jsonl": b'{"prompt": "q", "response": "b"}\n',
            "large/train.jsonl": b'{"prompt": "q", "response": "b"}\n' * 3,
            "large/test.jsonl": b'{"prompt": "q", "response": "b"}\n' * 2,
            "README.md": b"---\nconfigs:\n- config_name: small\n  data_files:\n  - {split: train, path: small/*}\n"
            b"- config_name: large\n  data_files:\n  - {split: train, path: large/train.jsonl}\n"
            b"  - {split: test, path: large/test.jsonl}\n---\n",
        },
        "somebody/gated": {"train.jsonl": b'{"prompt": "q", "response": "b"}\n'},
    }


EARLIER = {"train.jsonl": b'{"prompt": "q", "response": "earlier"}\n'}


def hub() -> Hub:
    held = {name: Repository(files, "dataset", gated=name.endswith("gated")) for name, files in repositories().items()}
    held["somebody/pinned"] = Repository(
        {"train.jsonl": b'{"prompt": "q", "response": "now"}\n'}, "dataset", {"v1": EARLIER}
    )
    return Hub(held)


PROGRAM = """
import json, sys
from unnorm.data.settings import DataSettings
from unnorm.data.sources import read
from unnorm.foundation.errors import DataError
found = []
for wanted in json.loads(sys.argv[1]):
    try:
        reading = read(DataSettings(**wanted), quiet=True)
    except DataError as error:
        found.append(str(error))
        continue
    first = reading.conversations[0]
    found.append({"rows": reading.rows, "conversations": len(reading.conversations), "dropped": reading.dropped,
                  "changed": reading.changed, "formats": sorted(set(reading.formats.values())),
                  "ignored": reading.ignored, "first": [m.content for m in first.messages]})
print(json.dumps(found))
"""

WANTED = [
    {"source": "alpaca"},
    {"source": "alpaca", "streaming": True, "rows": 2},
    {"source": "sharegpt"},
    {"source": "rewild", "streaming": True},
    {"source": "rewild-reduced"},
    {"source": "somebody/chats", "subset": "large", "split": "test"},
    {"source": "somebody/chats", "subset": "large", "split": "dev"},
    {"source": "nobody/nothing"},
    {"source": "somebody/gated"},
    {"source": "somebody/pinned"},
    {"source": "somebody/pinned@v1"},
    {"source": f"somebody/pinned@{commit_of(EARLIER)}"},
    {"source": "somebody/pinned@v2"},
]


OFFLINE = [
    {"source": "alpaca"},
    {"source": "sharegpt"},
    {"source": f"somebody/pinned@{commit_of(EARLIER)}"},
    {"source": f"somebody/pinned@{commit_of({'train.jsonl': b'another'})}"},
    {"source": "nobody/nothing"},
    {"source": f"somebody/pinned@{commit_of(EARLIER)}", "streaming": True},
    {"source": "sharegpt", "streaming": True},
]


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What a fresh process, which may go to the hub, reads."""
    home = tmp_path_factory.mktemp("hub")
    with serve(hub()) as served:
        environment = {**os.environ, "HF_ENDPOINT": served.endpoint, "HF_HOME": str(home), "HF_HUB_OFFLINE": "0",
                       "HF_HUB_DISABLE_TELEMETRY": "1"}  # fmt: skip
        command = [sys.executable, "-c", PROGRAM, json.dumps(WANTED)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr
    found = dict(zip(map(json.dumps, WANTED), json.loads(done.stdout.splitlines()[-1]), strict=True))
    command[-1] = json.dumps(OFFLINE)
    environment |= {"HF_HUB_OFFLINE": "1", "HF_ENDPOINT": "http://127.0.0.1:9"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr
    again = zip(OFFLINE, json.loads(done.stdout.splitlines()[-1]), strict=True)
    return found | {json.dumps({**wanted, "offline": True}): reading for wanted, reading in again}


def of(found, **wanted):
    return found[json.dumps(wanted)]


def test_alpaca(found):
    alpaca = of(found, source="alpaca")
    assert (alpaca["rows"], alpaca["conversations"]) == (10, 9)
    assert alpaca["dropped"] == {"empty output": 1}
    assert alpaca["changed"] == {'"no input" made an empty input': 1}
    assert alpaca["ignored"] == ["text"]
    streamed = of(found, source="alpaca", streaming=True, rows=2)
    assert (streamed["conversations"], streamed["first"]) == (2, ["Add 0", "0"])


def test_sharegpt_is_one_file_of_its_repository(found):
    assert of(found, source="sharegpt")["conversations"] == 5


def test_rewild_is_built_from_its_three_parts(found):
    mix = of(found, source="rewild", streaming=True)
    assert mix["rows"] == 450
    assert mix["formats"] == ["messages", "multiple-choice"]
    assert mix["conversations"] + sum(mix["dropped"].values()) == 450
    assert mix["dropped"]["no answer"] == 1
    reduced = of(found, source="rewild-reduced")
    assert reduced["conversations"] == 449


def test_a_subset_and_a_split(found):
    assert of(found, source="somebody/chats", subset="large", split="test")["conversations"] == 2
    assert "split 'dev'" in of(found, source="somebody/chats", subset="large", split="dev")


def test_what_is_not_there_is_one_clear_error(found):
    assert of(found, source="nobody/nothing") == (
        "cannot load 'nobody/nothing' (split 'train') from the hub: the hub has no data set of this name. "
        "Check how it is spelt, or give a file instead; if private: log in with `hf auth login` first."
    )
    gated = of(found, source="somebody/gated")
    assert "it is gated: only accounts that its owner let in may read it. Ask for access at http" in gated
    assert gated.endswith("/datasets/somebody/gated; then log in with `hf auth login`, or set HF_TOKEN.")


def test_a_revision_is_a_tag_or_a_commit(found):
    assert of(found, source="somebody/pinned")["first"] == ["q", "now"]
    assert of(found, source="somebody/pinned@v1")["first"] == ["q", "earlier"]
    assert of(found, source=f"somebody/pinned@{commit_of(EARLIER)}")["first"] == ["q", "earlier"]
    missing = of(found, source="somebody/pinned@v2")
    assert missing.endswith(
        "it has no revision 'v2'. Give a branch, a tag or a whole commit, as in somebody/pinned@main."
    )


def test_offline_the_cache_serves_what_it_holds_and_no_other_revision(found):
    for wanted in OFFLINE[:3]:
        assert of(found, **wanted, offline=True) == of(found, **wanted)
    for wanted in OFFLINE[5:]:  # nothing can be fetched, and nothing need be
        assert of(found, **wanted, offline=True) == of(found, source=wanted["source"])
    assert "the cache holds another revision of it" in of(found, **OFFLINE[3], offline=True)
    assert "HF_HUB_OFFLINE is set, and the cache " in of(found, source="nobody/nothing", offline=True)
