"""stdout and stderr as shells give them: without Greek letters, closed, full, or left by their reader."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from study.small_study import study_text


def unnorm(command: str, *, encoding: str | None = None, redirected: str = "") -> subprocess.CompletedProcess[bytes]:
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONUTF8", "LC_ALL")}
    environment |= {"PYTHONIOENCODING": encoding} if encoding else {}
    line = f"{sys.executable} -m unnorm {command} {redirected}"
    return subprocess.run(["bash", "-c", line], capture_output=True, env=environment, timeout=300)


@pytest.fixture(scope="module")
def greek(tmp_path_factory):
    """Data whose text no 8-bit encoding has."""
    rows = [{"instruction": f"γ {n}", "output": "β é ✓ 日本 \U0001f600"} for n in range(200)]
    path = tmp_path_factory.mktemp("greek") / "rows.json"
    path.write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    return path


def commands(base, data, out):
    tokenizer = f"--model {base} --max-length 64 --template alpaca-short"
    return {
        "sites": f"sites {base}",
        "preview": f"data preview {data} {tokenizer}",
        "stats": f"data stats {data} {tokenizer}",
        "swap": f"swap {base} --bare --out {out}/swapped",
        "latency": f"latency {base} --budget 1 --workloads prefill --lengths 8",
        "generate": f"generate {base} --max-new-tokens 2 --out {out}/answers.jsonl",
        "a mistake": f"sites {base} --colour",
        "help": "swap --help",
    }


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_an_encoding_without_our_letters(bases, greek, tmp_path, encoding):
    for name, command in commands(bases["gpt2"], greek, tmp_path).items():
        done = unnorm(command, encoding=encoding)
        assert done.returncode == (2 if name == "a mistake" else 0), (name, done.stderr)
        assert b"Traceback" not in done.stderr + done.stdout
        (done.stdout + done.stderr).decode(encoding)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_json_loses_nothing_in_any_encoding(bases, greek, encoding):
    command = f"data preview {greek} --model {bases['gpt2']} --max-length 64 --template alpaca-short --count 1 --json"
    found = json.loads(unnorm(command, encoding=encoding).stdout.decode("ascii"))
    text = "".join(run["text"] for row in found["shown"][0]["rows"] for run in row)
    assert "β é ✓ 日本 \U0001f600" in text
    assert json.loads(unnorm(command, encoding="utf-8").stdout.decode("utf-8")) == found


def test_a_closed_stdout_or_stderr(bases, greek, tmp_path):
    for name, command in commands(bases["gpt2"], greek, tmp_path).items():
        for closed in (">&-", "2>&-", "<&- >&- 2>&-"):
            done = unnorm(command, redirected=closed)
            assert done.returncode == (2 if name == "a mistake" else 0), (name, closed, done.stderr)
            assert b"unexpected" not in done.stderr
    assert json.loads((tmp_path / "answers.jsonl").read_text().splitlines()[0])["prompt_id"] == "fact"


def test_what_goes_to_a_closed_stderr_does_not_turn_up_on_stdout(bases):
    done = unnorm(f"latency {bases['gpt2']} --budget 1 --workloads prefill --lengths 8 --json", redirected="2>&-")
    assert json.loads(done.stdout)["comparisons"]


def test_a_full_stdout_fails_and_says_so(bases):
    for command in (f"sites {bases['gpt2']}", f"sites {bases['gpt2']} --json"):
        done = unnorm(command, redirected="> /dev/full")
        assert done.returncode == 1
        assert b"No space left" in done.stderr
        assert b"unexpected" not in done.stderr
        assert b"Traceback" not in done.stderr


def test_a_reader_that_has_gone_is_no_fault(bases):
    done = unnorm(f"sites {bases['gpt2']} --json", redirected="| true")
    assert done.stderr == b""


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_study_with_workers_and_a_name_beyond_the_encoding(bases, data_file, tmp_path, encoding):
    """What workers say goes through a pipe between two processes, of which neither asks the terminal."""
    data = tmp_path / "données-γ.json"
    data.write_bytes(Path(data_file).read_bytes())
    training = {"tokens": 300, "max_length": 64, "batch_tokens": 128, "precision": "fp32"}
    text = study_text(bases["gpt2"], str(data), strategies=["frozen"], training=training)
    (tmp_path / "study.yaml").write_text(text)
    done = unnorm(f"study run {tmp_path}/study.yaml --ledger {tmp_path}/ledger --workers 2 --json", encoding=encoding)
    assert done.returncode == 0, done.stderr
    assert {row["dataset"] for row in json.loads(done.stdout.decode("ascii"))} == {"données-γ"}
    said = "\\u03b3" if encoding == "latin-1" else "donn\\xe9es-\\u03b3"
    assert said in done.stderr.decode(encoding)
