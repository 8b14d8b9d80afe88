"""stdout and stderr as shells give them: without Greek letters, closed, full, or left by their reader."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from study.small_study import study_text
from unnorm.cli import streams
from unnorm.cli.main import run
from unnorm.cli.output import emit_json


def unnorm(command: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    line = f"{sys.executable} -m unnorm {command}"
    return subprocess.run(["bash", "-c", line], capture_output=True, env=os.environ | environment, timeout=600)


def called(monkeypatch, encoding: str, command: str) -> tuple[int, str, str]:
    """The verb under streams of an encoding that refuse what it lacks, as Python opens them."""
    opened = [io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="strict") for _ in range(2)]
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", opened[0])
        patch.setattr(sys, "stderr", opened[1])
        streams.prepare()
        code = run(command.split())
        streams.finish()
        opened[1].flush()
    out, err = (stream.buffer.getvalue().decode(encoding) for stream in opened)
    return code, out, err


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
        "doctor": "doctor",
        "preview": f"data preview {data} {tokenizer}",
        "stats": f"data stats {data} {tokenizer}",
        "repair": f"data repair {data} -o {out}/clean.jsonl",
        "swap": f"swap {base} --bare --out {out}/swapped",
        "evaluate": f"evaluate {base} --data {data} --max-length 64 --template alpaca-short --tokens 200",
        "latency": f"latency {base} --budget 1 --workloads prefill --lengths 8",
        "generate": f"generate {base} --max-new-tokens 2 --out {out}/answers.jsonl",
        "a mistake": f"sites {base} --colour",
        "help": "swap --help",
    }


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_an_encoding_without_our_letters(monkeypatch, bases, greek, tmp_path, encoding):
    for name, command in commands(bases["gpt2"], greek, tmp_path).items():
        code, out, err = called(monkeypatch, encoding, command)
        assert code == (2 if name == "a mistake" else 0), (name, err)
        assert "unexpected" not in err, name
        assert out or err, name


def test_what_an_encoding_lacks_is_replaced_and_the_rest_stays(monkeypatch, bases):
    _, out, _ = called(monkeypatch, "latin-1", f"sites {bases['gpt2']}")
    row = next(line for line in out.splitlines() if "transformer.h.0.ln_1" in line)
    assert row.split() == ["transformer.h.0.ln_1", "layernorm", "attention", "reads", "?,", "?", "32", "1e-05"]


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_json_loses_nothing_in_any_encoding(monkeypatch, bases, greek, encoding):
    command = f"data preview {greek} --model {bases['gpt2']} --max-length 64 --template alpaca-short --count 1 --json"
    _, out, _ = called(monkeypatch, encoding, command)
    assert out.isascii() == (encoding != "utf-8")
    text = "".join(part["text"] for row in json.loads(out)["shown"][0]["rows"] for part in row)
    assert "β é ✓ 日本 \U0001f600" in text


def test_json_of_a_path_that_is_no_utf_8(capsys):
    emit_json({"out": os.fsdecode(b"/tmp/\xff"), "rows": [("a", 1)]})
    assert json.loads(capsys.readouterr().out) == {"out": "/tmp/\\udcff", "rows": [["a", 1]]}


def test_streams_that_python_did_not_open(monkeypatch, bases, greek, tmp_path):
    for name, command in commands(bases["gpt2"], greek, tmp_path).items():
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", None)
            patch.setattr(sys, "stderr", None)
            streams.prepare()
            assert run(command.split()) == (2 if name == "a mistake" else 0), name
            streams.finish()
    assert json.loads((tmp_path / "answers.jsonl").read_text().splitlines()[0])["prompt_id"] == "fact"


def test_a_log_that_nobody_reads_any_longer_ends_no_work(monkeypatch, bases, tmp_path):
    class Gone(io.StringIO):
        def write(self, text):
            raise BrokenPipeError

    monkeypatch.setattr(sys, "stderr", Gone())
    assert run(["swap", bases["gpt2"], "--bare", "--out", str(tmp_path / "swapped")]) == 0
    assert (tmp_path / "swapped" / "unnorm.json").is_file()


def test_a_closed_stdout_is_no_files_number(greek, tmp_path):
    """The first file to be opened would get the number of the closed stream, and be printed into."""
    done = unnorm(f"data repair {greek} -o {tmp_path}/clean.jsonl >&- 2>&- <&-")
    assert done.returncode == 0
    lines = (tmp_path / "clean.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == json.loads(greek.read_text(encoding="utf-8"))


def test_what_goes_to_a_closed_stderr_does_not_turn_up_on_stdout(greek, tmp_path):
    done = unnorm(f"data repair {greek} -o {tmp_path}/clean.jsonl --json 2>&-")
    assert json.loads(done.stdout)["records"] == 200


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="only Linux has a device that is always full")
def test_a_full_stdout_fails_and_says_so(greek, tmp_path):
    done = unnorm(f"data repair {greek} -o {tmp_path}/clean.jsonl --json > /dev/full")
    assert done.returncode == 1
    assert b"No space left" in done.stderr
    assert b"unexpected" not in done.stderr
    assert b"Traceback" not in done.stderr


def test_a_reader_that_has_gone_is_no_fault(greek, tmp_path):
    done = unnorm(f"data repair {greek} -o {tmp_path}/clean.jsonl --json 2> {tmp_path}/said | true")
    assert b"Error" not in done.stderr + (tmp_path / "said").read_bytes()


@pytest.mark.slow
def test_a_study_with_workers_and_a_name_beyond_the_encoding(ready_python, bases, data_file, tmp_path):
    """What workers say goes through a pipe between two processes, of which neither asks the terminal."""
    data = tmp_path / "données-γ.json"
    data.write_bytes(Path(data_file).read_bytes())
    training = {"tokens": 300, "max_length": 64, "batch_tokens": 128, "precision": "fp32"}
    text = study_text(bases["gpt2"], str(data), strategies=["frozen"], training=training)
    (tmp_path / "study.yaml").write_text(text)
    command = f"study run {tmp_path}/study.yaml --ledger {tmp_path}/ledger --workers 2 --json"
    done = unnorm(command, PYTHONIOENCODING="latin-1")
    assert done.returncode == 0, done.stderr
    assert {row["dataset"] for row in json.loads(done.stdout.decode("ascii"))} == {"données-γ"}
    assert "worker 1: " in done.stderr.decode("latin-1") or "worker 2: " in done.stderr.decode("latin-1")
    assert "données-\\u03b3" in done.stderr.decode("latin-1")
