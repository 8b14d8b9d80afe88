"""`unnorm finetune`: its options and its file are a study's settings; trackers get what is trained."""

import importlib.util

import pytest

from cli.test_main import call, finetune_options
from unnorm.study import run_cell
from unnorm.study.spec import parse_spec

CONFIG = """\
training:
  tokens: 5000
  warmup: 0.03
  weight_decay: 0.0
  lora: {r: 4, alpha: 16}
evaluation: {tokens: 700}
dataset: {template: plain, policies: {leading_answer: context}}
"""


@pytest.fixture
def told(monkeypatch, tmp_path):
    """A function from options to the settings of the cell that would be run."""
    cells = []

    def stop(settings, out, **more):
        cells.append(settings)
        raise KeyboardInterrupt

    monkeypatch.setattr(run_cell, "run_cell", stop)

    def settings_of(capsys, *options):
        code, _, err = call(capsys, "finetune", "some/model", "--data", "alpaca", "--out", tmp_path / "run", *options)
        assert code == 130, err
        return cells[-1]

    return settings_of


def test_without_options_the_settings_are_a_studys(told, capsys):
    study = "name: s\nmodels: [some/model]\ndatasets: [alpaca]\narms: [dyt]\nstrategies: [full]\n"
    (cell,) = parse_spec(study, "s.yaml").cells()
    assert told(capsys, "--strategy", "full") == cell
    assert cell.training.learning_rate == 4e-4


def test_options_are_settings_of_a_study(told, capsys):
    cell = told(
        capsys, "--epochs", 3, "--warmup", 0.02, "--lora-dropout", 0, "--lora-rank", 16, "--lora-targets", "q_proj",
        "--learning-rate", 1e-3, "--schedule", "linear", "--devices", 2, "--max-length", 128, "--evaluation-tokens", 9,
        "--loss-on", "user,assistant", "--map", "instruction=q,output=a", "--alpha", "channel", "--seed", 7,
        "--policy", "leading_answer=context", "--checkpoint-every", 11, "--evaluate-every", "22k",
    )  # fmt: skip
    t = cell.training
    assert (cell.epochs, t.warmup, t.lora.dropout, t.lora.r, t.lora.targets) == (3, 0.02, 0, 16, ["q_proj"])
    assert (t.learning_rate, t.schedule, t.devices, cell.data.max_length, cell.seed) == (1e-3, "linear", 2, 128, 7)
    assert (cell.evaluation_tokens, cell.evaluate_every_tokens, cell.checkpoint_every_tokens) == (9, 22_000, 11)
    assert cell.data.loss_on == ("user", "assistant")
    assert cell.data.policies.leading_answer == "context"
    assert dict(cell.data.map) == {"instruction": "q", "output": "a"}
    assert (cell.arm.id, cell.arm.norm["alpha"]) == ("dyt-channel", "channel")


def test_a_file_of_settings_and_options_that_go_before_it(told, capsys, tmp_path):
    (tmp_path / "mine.yaml").write_text(CONFIG)
    cell = told(capsys, "--config", tmp_path / "mine.yaml", "--lora-rank", 16, "--template", "chatml")
    t = cell.training
    assert (t.tokens, t.warmup, t.weight_decay, t.lora.r, t.lora.alpha) == (5000, 0.03, 0.0, 16, 16)
    assert (cell.evaluation_tokens, cell.data.template) == (700, "chatml")
    assert cell.data.policies.leading_answer == "context"
    cell = told(capsys, "--config", tmp_path / "mine.yaml", "--epochs", 2)
    assert (cell.epochs, cell.training.warmup) == (2, 0.03)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--epochs", 2, "--tokens", 9), "--tokens and --epochs both say"),
        (("--warmup", 1.5), "--warmup: must be below 1, not 1.5."),
        (("--lora-dropout", 1), "--lora-dropout: must be below 1, not 1.0."),
        (("--strategy", "half"), "--strategy: must be one of frozen, selective, full, not 'half'."),
        (("--to", "dit"), "--to: there is no arm 'dit'"),
        (("--batch-tokens", 100), "--batch-tokens: batch_tokens (100) must be a multiple of max_length (256)"),
        (("--policy", "leading=x"), "--policy leading: there is no such key."),
        (("--evaluation-tokens", 0), "--evaluation-tokens"),
        (("--config", "none.yaml"), "--config: there is no file 'none.yaml'"),
        (("--report-to", "nowhere"), "there is no tracker 'nowhere'. Known: tensorboard, wandb, mlflow, trackio."),
    ],
)
def test_what_is_wrong_is_named_by_its_option(capsys, tmp_path, options, message):
    code, _, err = call(capsys, "finetune", "some/model", "--data", "alpaca", "--out", tmp_path / "run", *options)
    assert code == 2
    assert message in err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (("warmup: 0.03", "warmup: 3"), (), "mine.yaml, line 3: training.warmup: must be below 1, not 3."),
        (("warmup:", "warmpu:"), (), "line 3: training.warmpu: there is no such key. Did you mean 'warmup'?"),
        (("tokens: 5000", "tokens: 5000\n  epochs: 1"), (), "line 1: training: tokens and epochs both say"),
        (("weight_decay: 0.0", "batch_tokens: 100"), (), "line 4: training.batch_tokens: batch_tokens (100) must be"),
        (("weight_decay: 0.0", "batch_tokens: 100"), ("--batch-tokens", 50), "--batch-tokens: batch_tokens (50) must"),
        (("training:", "models: [x]\ntraining:"), (), "line 1: models: there is no such key."),
    ],
)
def test_what_is_wrong_in_the_file_is_named_by_its_line(capsys, tmp_path, change, options, message):
    (tmp_path / "mine.yaml").write_text(CONFIG.replace(*change))
    options = (*options, "--config", tmp_path / "mine.yaml")
    code, _, err = call(capsys, "finetune", "some/model", "--data", "alpaca", "--out", tmp_path / "run", *options)
    assert code == 2
    assert message in err


def test_a_tracker_that_is_not_installed_says_what_to_install(capsys, tmp_path, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "wandb" else found(name, *a))
    options = ("--data", "alpaca", "--out", tmp_path / "run", "--report-to", "wandb")
    code, _, err = call(capsys, "finetune", "some/model", *options)
    assert code == 2
    assert "pip install wandb" in err


def test_tensorboard_gets_loss_and_grad_norm_of_every_step(bases, data_file, tmp_path, capsys):
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    options = finetune_options(bases["gpt2"], data_file, tmp_path / "run", "--report-to", "tensorboard")
    code, _, err = call(capsys, *options)
    assert code == 0, err
    (file,) = (tmp_path / "run").rglob("events.out.tfevents.*")
    read = events.EventAccumulator(str(file.parent))
    read.Reload()
    steps = [event.step for event in read.Scalars("train/loss")]
    assert steps == [event.step for event in read.Scalars("train/grad_norm")]
    assert steps == list(range(1, len(steps) + 1))
    assert all(event.value > 0 for event in read.Scalars("train/grad_norm"))
    assert [event.step for event in read.Scalars("eval/loss")][-1] == steps[-1]
    assert str(file.parent.parent) in err


def test_tokens_as_people_write_them(told, capsys):
    assert told(capsys, "--tokens", "1.5M").training.tokens == 1_500_000
    for wrong in ("0", "6x", "many"):
        code, _, err = call(capsys, "finetune", "some/model", "--data", "alpaca", "--out", "run", "--tokens", wrong)
        assert code == 2
        assert "'--tokens': must be a number of tokens, 1 or more, such as 10M, 500k or 250000, not" in " ".join(
            err.split()
        )
