"""One cell, end to end: arms and strategies, killed and resumed, refused and failed."""

import json
import os
import re
import signal
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import unnorm
import warm
from conftest import FAMILIES, tiny_model
from unnorm.data.settings import DataSettings
from unnorm.foundation import precision
from unnorm.foundation.errors import ArtefactError, NonFiniteError, SettingsError
from unnorm.study import fine_tune
from unnorm.study.arms import arm_from
from unnorm.study.attempt import working_folder
from unnorm.study.cell import CellSettings, cell_of, settled
from unnorm.study.hooks import Hooks
from unnorm.study.lease import TaskFolder
from unnorm.study.ledger import standing_of
from unnorm.study.run_cell import run_cell
from unnorm.study.workbench import Workbench
from unnorm.tuning import checkpoint
from unnorm.tuning.run_log import RunLog

STRATEGIES = ("frozen", "selective", "full")
TIMINGS = ("tokens_per_second", "memory_bytes", "wall_seconds", "seconds")


def settings_of(base: str, data: str, **changes) -> CellSettings:
    training = {
        "tokens": 1500,
        "batch_tokens": 128,
        "learning_rate": 3e-3,
        "precision": "fp32",
        **changes.pop("training", {}),
    }
    return CellSettings.model_validate(
        {
            "model": base,
            "arm": arm_from(changes.pop("arm", "dyt")).model_copy(update=changes.pop("arm_changes", {})),
            "data": {"source": data, "template": "alpaca-short", "max_length": changes.pop("max_length", 64)},
            "training": training,
            "evaluation_tokens": 300,
            "evaluate_every_tokens": 512,
            "checkpoint_every_tokens": 256,
            **changes,
        }
    )


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def without_timings(records):
    kept = [{key: value for key, value in record.items() if key not in TIMINGS} for record in records]
    for record in kept:
        if "environment" in record:
            record["environment"] = {k: v for k, v in record["environment"].items() if k != "load"}
    return kept


def weights_of(out: Path) -> dict[str, torch.Tensor]:
    files = sorted((out / "model").glob("*.safetensors"))
    return {f"{file.name}:{name}": tensor for file in files for name, tensor in load_file(file).items()}


def assert_same_end(one: Path, other: Path) -> None:
    a, b = weights_of(one), weights_of(other)
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)
    for name in ("steps.jsonl", "evaluations.jsonl"):
        assert without_timings(lines(one / name)) == without_timings(lines(other / name))


def killed_run(settings: CellSettings, out: Path, kill_after_step: int) -> None:
    """Run the cell in a process of its own, and SIGKILL it once its log has reached a step."""
    program = (
        "import sys; from pathlib import Path; from unnorm.study.cell import CellSettings;"
        "from unnorm.study.run_cell import run_cell;"
        "run_cell(CellSettings.model_validate_json(sys.argv[1]), Path(sys.argv[2]), quiet=True)"
    )
    process = warm.start(program, settings.model_dump_json(), out)
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        log = working_folder(TaskFolder(out)) / "steps.jsonl"
        if log.is_file() and log.read_bytes().count(b"\n") >= kill_after_step:
            break
        time.sleep(0.002)
    assert process.poll() is None, "the run ended before it could be killed"
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert checkpoint.latest(working_folder(TaskFolder(out)) / "checkpoints"), "there is nothing to resume from"
    assert standing_of(out)[:2] == ("interrupted", None)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_rule_19_killed_and_resumed_ends_bitwise_the_same(family, strategy, bases, data_file, tmp_path):
    settings = settings_of(bases[family], data_file, strategy=strategy)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    result = run_cell(settings, whole, quiet=True)
    killed_run(settings, killed, kill_after_step=5)
    steps = len(lines(whole / "steps.jsonl"))
    assert steps > 8
    resumed = run_cell(settings, killed, quiet=True)
    assert_same_end(whole, killed)
    assert without_timings([resumed]) == without_timings([result])


def test_resuming_under_bf16_is_bitwise_too(bases, data_file, tmp_path):
    settings = settings_of(bases["llama"], data_file, strategy="selective", training={"precision": "bf16"})
    run_cell(settings, tmp_path / "whole", quiet=True)
    killed_run(settings, tmp_path / "killed", kill_after_step=5)
    run_cell(settings, tmp_path / "killed", quiet=True)
    assert_same_end(tmp_path / "whole", tmp_path / "killed")


@pytest.mark.parametrize("arm", ["original", "dyt", "dyt-bare"])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_rule_13_every_arm_trains_and_logs_and_the_saved_weights_are_the_evaluated_ones(
    arm, strategy, bases, data_file, tmp_path
):
    out = tmp_path / "out"
    result = run_cell(settings_of(bases["gpt_neox"], data_file, arm=arm, strategy=strategy), out, quiet=True)
    steps = lines(out / "steps.jsonl")
    assert [record["step"] for record in steps] == list(range(1, result["steps"] + 1))
    assert steps[-1]["train_tokens"] == result["train_tokens"] >= 1500
    for record in steps:
        assert record["loss"] > 0
        assert 0 <= record["token_accuracy"] <= 1
        assert record["grad_norm"] > 0
        assert record["tokens_per_second"] > 0
        assert record["memory_bytes"] > 0
        assert ("alpha" in record) == ("saturation" in record) == (arm != "original")
    if arm != "original":
        assert len(steps[0]["alpha"]) == len(steps[0]["saturation"]) == 5
        moved = steps[0]["alpha"] != steps[-1]["alpha"]
        assert moved == (strategy != "frozen")
    evaluations = lines(out / "evaluations.jsonl")
    assert [e["step"] for e in evaluations] == [0, *range(4, result["steps"], 4), result["steps"]]
    assert evaluations[0]["loss"] == result["start_eval_loss"]
    assert evaluations[-1]["loss"] == result["eval_loss"]
    trainable = json.loads((out / "trainable.json").read_text())
    assert sum(trainable["parameters"].values()) == result["trainable_parameters"]
    assert (out / "calibration.json").is_file() == (arm != "original")
    assert not (out / "checkpoints").exists()
    loaded = unnorm.load(out / "model")
    adapter = out / "model" / "adapter_model.safetensors"
    assert adapter.is_file() == (strategy != "full")
    if strategy == "selective":  # the norms that trained are in the saved adapter
        stored = load_file(adapter)
        assert sum("layer_norm" in name or "layernorm" in name for name in stored) == 5 * (
            2 if arm == "original" else 3
        )
    from unnorm.surgery.base import load_tokenizer

    data = DataSettings(source=data_file, template="alpaca-short", max_length=64)
    again = unnorm.evaluate(loaded, data, load_tokenizer(str(out / "model")), tokens=300, quiet=True)
    assert again.loss == pytest.approx(result["eval_loss"], rel=1e-6)


def test_rule_06_arms_of_one_seed_see_the_same_rows_in_the_same_order(bases, data_file, tmp_path):
    tokens = []
    for arm in ("original", "dyt"):
        run_cell(settings_of(bases["gpt2"], data_file, arm=arm), tmp_path / arm, quiet=True)
        tokens.append([record["train_tokens"] for record in lines(tmp_path / arm / "steps.jsonl")])
        resolved = json.loads((tmp_path / arm / "cell.json").read_text())["settings"]
        assert resolved.pop("arm")["id"] == arm
        tokens.append(resolved)
    assert tokens[0] == tokens[2]
    assert tokens[1] == tokens[3]


def test_a_finished_cell_is_not_run_again_and_another_one_is_refused(bases, data_file, tmp_path):
    settings = settings_of(bases["gpt2"], data_file)
    result = run_cell(settings, tmp_path / "out", quiet=True)
    stamp = (tmp_path / "out" / "result.json").stat().st_mtime_ns
    assert run_cell(settings, tmp_path / "out", quiet=True) == result
    assert (tmp_path / "out" / "result.json").stat().st_mtime_ns == stamp
    with pytest.raises(ArtefactError, match="another run: it differs in strategy"):
        run_cell(settings_of(bases["gpt2"], data_file, strategy="full"), tmp_path / "out", quiet=True)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    with pytest.raises(ArtefactError, match="holds no run"):
        run_cell(settings, tmp_path / "mine", quiet=True)


def test_rule_10_a_non_finite_loss_ends_the_cell_as_failed_with_the_step(bases, data_file, tmp_path):
    out = tmp_path / "out"
    training = {"learning_rate": 1e30, "schedule": "constant", "warmup": 0.0}
    with pytest.raises(NonFiniteError, match=r"at step [0-9]+"):
        run_cell(settings_of(bases["gpt2"], data_file, strategy="full", training=training), out, quiet=True)
    standing = standing_of(out)
    assert (standing.state, standing.failure) == ("failed", "non_finite")
    assert re.search(r"NonFiniteError: .* at step \d+", standing.error)
    assert not (out / "result.json").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"training": {"batch_tokens": 100}}, "multiple of max_length"),
        ({"max_length": 128}, "64 positions"),
        ({"arm": "dit"}, "Known arms"),
        ({"training": {"lora": {"targets": ["nowhere"]}}}, "matches no linear layer"),
        ({"training": {"train_sites": ["nowhere"]}, "strategy": "selective"}, "no site matches"),
    ],
)
def test_settings_that_cannot_be(changes, message, bases, data_file, tmp_path):
    with pytest.raises(unnorm.UnnormError, match=message):
        run_cell(settings_of(bases["gpt2"], data_file, **changes), tmp_path / "out", quiet=True)


@pytest.mark.skipif(torch.cuda.is_available(), reason="fp16 works on a GPU")
def test_fp16_without_a_gpu_is_refused_before_anything_is_loaded(data_file, tmp_path):
    with pytest.raises(SettingsError, match="needs a GPU"):
        run_cell(settings_of("/no/base", data_file, training={"precision": "fp16"}), tmp_path / "out", quiet=True)


@pytest.mark.parametrize("here", ["fp32", "bf16"])
def test_the_hash_of_a_cell_holds_the_precision_that_is_used(monkeypatch, here, bases, data_file):
    """So a machine on which auto means bf16 finds the cells that were run with bf16 as the default."""
    monkeypatch.setattr(precision, "_of_processor", lambda: precision.Chosen(here, "So it is."))
    bench = Workbench(quiet=True)
    auto = settled(settings_of(bases["gpt2"], data_file, training={"precision": "auto"}), bench)
    asked = settled(settings_of(bases["gpt2"], data_file, training={"precision": here}), bench)
    assert auto.training.precision == here
    assert cell_of(auto, bench) == cell_of(asked, bench)


def test_a_model_that_cannot_be_packed_is_padded_and_that_is_said(tokenizer, data_file, tmp_path):
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model("bloom", hidden_size=32, n_layer=1, n_head=2, vocab_size=384, eos_token_id=0)
    base = tmp_path / "bloom"
    AutoModelForCausalLM.from_config(config).save_pretrained(base)
    tokenizer.save_pretrained(base)
    said: list[str] = []
    result = run_cell(settings_of(str(base), data_file), tmp_path / "out", quiet=True, say=said.append)
    assert any("padding instead" in line for line in said)
    assert result["train_tokens"] >= 1500


def test_a_checkpoint_of_another_run_is_refused(bases, data_file, tmp_path):
    settings = settings_of(bases["gpt2"], data_file)
    killed_run(settings, tmp_path / "out", kill_after_step=5)
    (step,) = (working_folder(TaskFolder(tmp_path / "out")) / "checkpoints").glob("step-*")
    state = json.loads((step / "state.json").read_text())
    (step / "state.json").write_text(json.dumps({**state, "run": "0123456789abcdef"}))
    with pytest.raises(ArtefactError, match="checkpoint of another run"):
        run_cell(settings, tmp_path / "out", quiet=True)


@pytest.mark.parametrize("source", ["alpaca", "sharegpt", "rewild"])
def test_a_cell_of_each_known_source(source, bases, data_file, tmp_path):
    if source == "alpaca":
        path = Path(data_file)
    else:
        path = tmp_path / "data"
        path.mkdir()
        pairs = [(f"Join red and blue {i}", f"red blue {i}") for i in range(160)]
        chats = [[("human", q), ("gpt", a), ("human", "And again?"), ("gpt", a)] for q, a in pairs]
        as_chats = {
            "conversations": [{"conversations": [{"from": r, "value": t} for r, t in chat]} for chat in chats],
            "messages": [{"messages": [{"role": r, "content": t} for r, t in chat]} for chat in chats],
        }
        if source == "sharegpt":
            (path / "chats.json").write_text(json.dumps(as_chats["conversations"]))
        else:
            choice = [{"question": f"{q}\nA. no\nB. yes", "category": "x", "answer": 1} for q, _ in pairs]
            for part, rows in (("wildchat", as_chats["messages"]), ("mmlu", choice), ("algebra", as_chats["messages"])):
                (path / f"{part}.json").write_text(json.dumps(rows))
    data = {"source": source, "path": str(path), "template": "plain", "max_length": 32, "too_long": "split"}
    settings = settings_of(bases["llama"], "x").model_copy(update={"data": DataSettings(**data)})
    said: list[str] = []
    result = run_cell(settings, tmp_path / "out", quiet=True, say=said.append)
    assert result["train_tokens"] >= 1500
    assert result["dataset"] == source
    assert any(line.startswith("data understood as") for line in said)


def test_turns_that_all_weigh_the_same_train_as_if_they_had_no_weight(bases, tmp_path):
    steps = []
    for name, weight in (("half", 0.5), ("whole", 1.0)):
        rows = [
            {"messages": [{"role": "user", "content": f"Join {i}"},
                          {"role": "assistant", "content": f"red {i}", "weight": weight}]}
            for i in range(200)
        ]  # fmt: skip
        data = tmp_path / f"{name}.json"
        data.write_text(json.dumps(rows))
        run_cell(settings_of(bases["gpt2"], str(data)), tmp_path / name, quiet=True)
        steps.append(lines(tmp_path / name / "steps.jsonl"))
    for half, whole in zip(*steps, strict=True):
        assert half["loss"] == pytest.approx(whole["loss"], rel=1e-4)
        assert half["grad_norm"] == pytest.approx(whole["grad_norm"], rel=1e-3)


def _is_begun(out: Path, file: str) -> bool:
    path = (out if file == "cell.json" else working_folder(TaskFolder(out))) / file
    return path.is_file() and bool(path.read_bytes())


@pytest.mark.parametrize("reached", ["cell.json", "trainable.json", "steps.jsonl"])
def test_ctrl_c_at_any_stage_and_the_same_command_goes_on(reached, bases, data_file, tmp_path):
    settings = settings_of(bases["gpt2"], data_file, training={"tokens": 6000}, checkpoint_every_tokens=10**9)
    program = (
        "import sys; from pathlib import Path; from unnorm.study.cell import CellSettings;"
        "from unnorm.study.run_cell import run_cell;"
        "from unnorm.foundation.errors import Interrupted\n"
        "try: run_cell(CellSettings.model_validate_json(sys.argv[1]), Path(sys.argv[2]), quiet=True)\n"
        "except Interrupted: sys.exit(77)"
    )
    out = tmp_path / "out"
    process = warm.start(program, settings.model_dump_json(), out)
    while process.poll() is None and not _is_begun(out, reached):
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGINT)
    assert process.wait() == 77
    work = working_folder(TaskFolder(out))
    steps = len(RunLog(work / "steps.jsonl").read())
    if reached == "steps.jsonl":
        assert steps
    assert standing_of(out)[:2] == ("interrupted", None)
    assert [p.name for p in work.glob("checkpoints/*")] == [f"step-{steps:08d}"] * bool(steps)
    run_cell(settings, out, quiet=True)
    run_cell(settings, tmp_path / "whole", quiet=True)
    assert_same_end(out, tmp_path / "whole")


@pytest.mark.parametrize(
    ("arm", "loss", "warned"), [("dyt", 5.96, True), ("dyt", 5.94, False), ("original", 9.0, False)]
)
def test_a_swap_that_is_worse_than_a_guess_is_no_start_in_silence(arm, loss, warned):
    model = tiny_model("llama")  # log(384) = 5.95
    said = []
    fine_tune._say_start(loss, settings_of("x", "y", arm=arm), model, Hooks(say=said.append))
    assert any("The swap broke this model" in line for line in said) == warned
