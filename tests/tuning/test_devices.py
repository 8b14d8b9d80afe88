"""Several processes train, recover and measure the same as one: DDP and FSDP2, over gloo on a processor."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

import unnorm
import warm
from cli.test_main import call
from conftest import tiny_model, tokens
from study.test_cell import assert_same_end, lines, settings_of
from unnorm.artefacts.loading import load
from unnorm.cli.options import chosen_sharding
from unnorm.foundation import ranks
from unnorm.foundation.errors import SettingsError
from unnorm.study.cell import CellSettings
from unnorm.study.run_cell import run_cell
from unnorm.tuning.device_rows import DeviceRows, check_shares
from unnorm.tuning.settings import LoraSettings
from unnorm.tuning.sharded import blocks_of
from unnorm.tuning.strategies import apply_strategy

CELLS = {  # family, strategy, sharding; 25 rows by 4 a step: the last step has a single row, and a process has none
    "lora-ddp": ("llama", "selective", "ddp"),
    "lora-fsdp": ("llama", "selective", "fsdp"),
    "full-fsdp": ("gpt2", "full", "fsdp"),
}


def launched(program: list[str], *, timeout: int = 300) -> subprocess.CompletedProcess:
    """Two processes of one launch."""
    command = [warm.interpreter(), "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *program]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "HF_HUB_OFFLINE": "1"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=timeout)


def cell_of(bases, data_file, name: str) -> CellSettings:
    family, strategy, sharding = CELLS[name]
    training = {"batch_tokens": 256, "lora": {"dropout": 0.0}, "sharding": sharding}
    return settings_of(bases[family], data_file, strategy=strategy, training=training)


@pytest.fixture(scope="module")
def runs(bases, data_file, tmp_path_factory) -> Path:
    """A folder with `one/NAME` and `two/NAME`: each run by one process, and by two."""
    folder = tmp_path_factory.mktemp("devices")
    assert unnorm_run(["swap", bases["llama"], "--bare", "--out", str(folder / "swapped")]) == 0
    cases = [
        {"name": name, "cell": cell_of(bases, data_file, name).model_dump(mode="json"), "out": f"{folder}/two/{name}"}
        for name in CELLS
    ]
    ends = {"lora-fsdp": "a", "full-fsdp": "ab"}
    stopped = [
        {**case, "out": f"{case['out']}-{end}", "stop_after": 3} for case in cases for end in ends.get(case["name"], "")
    ]
    cases = [{**case, "stop_after": None} for case in cases]
    again = [{**case, "stop_after": None} for case in stopped if case["out"].endswith("a")]
    commands = {count: commands_of(folder, data_file, count) for count in ("one", "two")}
    told = [{"command": command, "said": str(folder / f"{name}.json")} for name, command in commands["two"].items()]
    (folder / "cases.json").write_text(json.dumps([*cases, *stopped, *again, *told]))
    program = Path(__file__).parent.parent / "device_cases.py"
    done = launched([str(program), str(folder / "cases.json")])
    assert done.returncode == 0, done.stderr[-5000:]
    for name in CELLS:
        run_cell(cell_of(bases, data_file, name), folder / "one" / name, quiet=True)
    return folder


def unnorm_run(command: list[str]) -> int:
    from unnorm.cli.main import run

    return run(command, debug=True)


def commands_of(folder: Path, data: str, count: str) -> dict[str, list[str]]:
    """Command lines, by what they are called."""
    text = ["--data", data, "--template", "alpaca-short", "--max-length", "64"]
    rates = ["--learning-rate", "3e-3", "--norm-learning-rate", "2e-2"]
    sizes = ["--tokens", "1536", "--batch-tokens", "512", "--held-out-tokens", "200", "--rows-per-forward", "4"]
    recover = ["recover", str(folder / "swapped"), *text, *rates, *sizes, "--precision", "fp32", "--json"]
    measured = ["evaluate", str(folder / "two" / "full-fsdp" / "model"), *text, "--tokens", "500", "--json"]
    return {
        "recover": [*recover, "--sharding", "fsdp", "--out", str(folder / count / "recover")],
        "recover-lora": [*recover, "--train", "lora", "--out", str(folder / count / "recover-lora")],
        "evaluate": measured,
        "evaluate-fsdp": [*measured, "--sharding", "fsdp"],
    }


def assert_same_steps(one: Path, two: Path) -> None:
    """The same loss to 1e-4 at every step, of the same tokens; and the same on held-out tokens."""
    a, b = lines(one / "steps.jsonl"), lines(two / "steps.jsonl")
    assert len(a) == len(b) > 2
    for x, y in zip(a, b, strict=True):
        assert y["train_tokens"] == x["train_tokens"]
        assert y["loss"] == pytest.approx(x["loss"], abs=1e-4)
        assert y["grad_norm"] == pytest.approx(x["grad_norm"], rel=1e-3)
        assert y["token_accuracy"] == pytest.approx(x["token_accuracy"])
        assert y["learning_rate"] == x["learning_rate"]
        assert y["alpha"] == pytest.approx(x["alpha"], rel=1e-4)
    a, b = lines(one / "evaluations.jsonl"), lines(two / "evaluations.jsonl")
    assert [x["step"] for x in a] == [x["step"] for x in b]
    assert [y["loss"] for y in b] == pytest.approx([x["loss"] for x in a], abs=1e-4)


@torch.no_grad()
def assert_same_model(one: Path, two: Path) -> None:
    """Artefacts of the same files, that compute the same."""
    assert sorted(path.name for path in one.iterdir()) == sorted(path.name for path in two.iterdir())
    unnorm.check(two)
    a, b = (load(path)(tokens()).logits for path in (one, two))
    torch.testing.assert_close(a, b, atol=1e-3, rtol=0)


@pytest.mark.parametrize("name", CELLS)
def test_rule_09_a_step_is_the_same_on_two_devices_as_on_one(runs, name):
    one, two = runs / "one" / name, runs / "two" / name
    assert_same_steps(one, two)
    assert_same_model(one / "model", two / "model")
    results = [json.loads((path / "result.json").read_text()) for path in (one, two)]
    for key in ("steps", "train_tokens", "trainable_parameters", "total_parameters", "eval_tokens", "rows_per_step"):
        assert results[0][key] == results[1][key], key
    assert results[1]["eval_loss"] == pytest.approx(results[0]["eval_loss"], abs=1e-4)
    assert results[1]["cell"] == results[0]["cell"]
    assert (results[0]["environment"].get("devices"), results[1]["environment"]["devices"]) == (None, 2)


@pytest.mark.parametrize("name", ["lora-fsdp", "full-fsdp"])
def test_one_process_told_to_stop_stops_both_and_they_go_on_bit_for_bit(runs, name):
    assert_same_end(runs / "two" / name, runs / "two" / f"{name}-a")


def test_one_process_goes_on_with_what_two_began(runs, bases, data_file, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(runs / "two" / "full-fsdp-b", out)
    before = [path.name for path in out.glob("attempt-*/checkpoints/*")]
    assert before == ["step-00000003"]
    run_cell(cell_of(bases, data_file, "full-fsdp"), out, quiet=True)
    assert_same_steps(runs / "one" / "full-fsdp", out)
    assert_same_model(runs / "one" / "full-fsdp" / "model", out / "model")


@pytest.mark.parametrize("name", ["recover", "recover-lora"])
def test_a_recovery_is_the_same_on_two_devices_as_on_one(runs, data_file, name):
    assert unnorm_run(commands_of(runs, data_file, "one")[name]) == 0
    one, two = runs / "one" / name, runs / "two" / name
    assert_same_steps(one, two)
    assert_same_model(one / "model", two / "model")
    a, b = (json.loads((path / "result.json").read_text()) for path in (one, two))
    for key in ("kl_before", "kl_after", "gap_before", "gap_after", "original_loss"):
        assert b[key] == pytest.approx(a[key], abs=1e-4), key
    assert json.loads((runs / f"{name}.json").read_text())["kl_after"] == b["kl_after"]


@pytest.mark.parametrize("name", ["evaluate", "evaluate-fsdp"])
def test_what_is_measured_is_the_same_on_two_devices_as_on_one(runs, data_file, capsys, name):
    code, out, err = call(capsys, *commands_of(runs, data_file, "one")[name])
    assert code == 0, err
    one, two = json.loads(out), json.loads((runs / f"{name}.json").read_text())
    [a], [b] = one["data"].values(), two["data"].values()
    assert a["trained"]["tokens"] == b["trained"]["tokens"]
    for part in ("trained", "all"):
        for end in ("value", "low", "high"):
            assert b[part]["nats_per_token"][end] == pytest.approx(a[part]["nats_per_token"][end], abs=1e-5)
    assert b["share"] == a["share"]


def test_a_failure_ends_all_processes_with_one_message(bases, data_file, tmp_path):
    """The second process fails by itself, while the first one trains."""
    program = tmp_path / "program.py"
    program.write_text(
        "import os\n"
        "from unnorm.cli.main import main\n"
        "from unnorm.foundation.errors import RunError\n"
        "from unnorm.tuning.trainer import TokenTrainer\n"
        "def fail(*_, **__): raise RunError('the second one has had enough')\n"
        "if os.environ['RANK'] == '1': TokenTrainer.compute_loss = fail\n"
        "main()\n"
    )
    options = ["--template", "alpaca-short", "--max-length", "64", "--batch-tokens", "256", "--tokens", "1500"]
    out = tmp_path / "out"
    done = launched(
        [str(program), "finetune", bases["llama"], "--data", data_file, *options, "--out", str(out)], timeout=120
    )
    assert done.returncode != 0
    said = done.stderr.partition("torch/distributed/elastic")[0]  # the launcher's own report comes after ours
    assert said.count("error: ") == 1, said
    assert "the second one has had enough" in said
    assert "Traceback" not in said.replace(done.stderr, "")


def test_devices_that_there_are_not_are_refused_before_anything_starts(bases, data_file, capsys, tmp_path):
    out = tmp_path / "out"
    options = ("--template", "alpaca-short", "--max-length", 64, "--batch-tokens", 64 * 4096)
    code, _, err = call(
        capsys, "finetune", bases["llama"], "--data", data_file, *options, "--devices", 4096, "--out", out
    )
    assert (code, f"this machine has {ranks.devices_here()}" in err) == (2, True), err
    assert not out.exists()


def test_rows_that_devices_cannot_share_are_refused(bases, data_file):
    with pytest.raises(SettingsError, match="4 rows a step or a forward cannot be shared by 3 devices"):
        check_shares(4, 3)
    training = {"batch_tokens": 256, "devices": 3}
    with pytest.raises(SettingsError, match="shared by 3"):
        settings_of(bases["llama"], data_file, training=training).rows_per_step()


def test_blocks_are_sharded_one_by_one_under_adapters_too():
    model = tiny_model("gpt2")
    assert blocks_of(model) == ["transformer.h.0", "transformer.h.1"]
    learner, _ = apply_strategy(model, "selective", site_paths=["transformer.ln_f"], lora=LoraSettings(), seed=0)
    assert blocks_of(learner) == [f"base_model.model.transformer.h.{number}" for number in (0, 1)]


def test_what_accelerate_was_told_about_fsdp_is_done_here(monkeypatch):
    assert chosen_sharding("ddp") == "ddp"
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_VERSION", "1")
    with pytest.raises(SettingsError, match="--fsdp_version 2"):
        chosen_sharding("ddp")
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_VERSION", "2")
    assert chosen_sharding("ddp") == "fsdp"
    assert "ACCELERATE_USE_FSDP" not in os.environ, "it would shard the model once more"
    with pytest.raises(SettingsError, match="--sharding is one of ddp, fsdp"):
        chosen_sharding("zero")


def test_every_row_is_had_once_and_in_order(monkeypatch):
    """Over three processes: of each forward, the rows of one after those of another, whatever is left at the end."""
    monkeypatch.setenv("WORLD_SIZE", "3")
    rows = list(range(20))
    parts = []
    for rank in range(3):
        monkeypatch.setenv("RANK", str(rank))
        shared = DeviceRows(rows, 6)
        parts.append([shared[number] for number in range(len(shared))])
    assert [len(part) for part in parts] == [4, 4, 4]
    together = [row for forward in zip(*parts, strict=True) for own, counts in forward if counts for row in own]
    assert together == rows
    assert [counts for _, counts in (part[-1] for part in parts)] == [True, False, False]
