"""The command line: what it prints, and what becomes of bad input: one clear message, its exit code, no traceback."""

import json
import subprocess
import sys
from importlib.metadata import version

import pytest
import torch
from torch import nn
from typer.main import get_command

from report.views import waiting_ledger
from unnorm.cli.main import app, run
from unnorm.foundation.precision import choose


def call(capsys, *arguments: str) -> tuple[int, str, str]:
    code = run([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    return code, out, err


def finetune_options(base, data, out, *more):
    return (
        "finetune", base, "--data", data, "--out", out, "--max-length", 64, "--batch-tokens", 128, "--tokens", 600,
        "--template", "alpaca-short", "--precision", "fp32", "--evaluation-tokens", 300, *more,
    )  # fmt: skip


def test_the_version(capsys):
    code, out, _ = call(capsys, "--version")
    assert (code, out) == (0, f"unnorm {version('unnorm')}\n")


@pytest.mark.parametrize(
    ("words", "wanted"),
    [("unnorm s", {"sites", "swap", "study"}), ("unnorm study pl", {"plan"}), ("unnorm swap --cal", {"--calibrate"})],
)
def test_a_shell_completes_verbs_and_options(capsys, monkeypatch, words, wanted):
    monkeypatch.setenv("_UNNORM_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", str(words.count(" ")))
    code, out, _ = call(capsys)
    assert code == 0
    assert set(out.split()) == wanted


def test_completion_can_be_shown_and_installed(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("shellingham.detect_shell", lambda *_, **__: ("bash", "/bin/bash"))
    code, out, err = call(capsys, "--show-completion")
    assert code == 0, err
    assert "_UNNORM_COMPLETE=complete_bash" in out
    code, _, err = call(capsys, "--install-completion")
    assert code == 0, err
    assert list(tmp_path.rglob("unnorm.sh"))


def verbs(command, *path):
    """The path of each verb, and of each group of them."""
    yield path
    for name, inner in getattr(command, "commands", {}).items():
        yield from verbs(inner, *path, name)


VERBS = list(verbs(get_command(app)))
GROUPS = {("study",), ("data",)}


@pytest.mark.parametrize("path", [path for path in VERBS if path and path not in GROUPS], ids=" ".join)
def test_every_verbs_help_ends_in_an_example(capsys, path):
    code, out, _ = call(capsys, *path, "--help")
    assert code == 0
    last = out.strip().split("\n\n")[-1]
    assert " ".join(last.split()).startswith(f"Example: unnorm {' '.join(path)}")
    assert "--json" in out


def test_there_are_verbs():
    assert ("study", "run") in VERBS


def test_help_imports_nothing_heavy():
    """What makes it fast on any machine, for the root and each verb; how fast is measured in benchmarks/help.py."""
    program = (
        "import json, sys; from unnorm.cli.main import run; "
        "print(*[run([*path, '--help']) for path in json.loads(sys.argv[1])], file=sys.stderr); "
        "print(*{name.partition('.')[0] for name in sys.modules}, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, json.dumps(VERBS)], capture_output=True, text=True, check=True
    )
    codes, modules = done.stderr.splitlines()
    heavy = {"torch", "transformers", "peft", "accelerate", "datasets", "numpy", "scipy", "pyarrow", "altair", "pandas"}
    assert codes.split() == ["0"] * len(VERBS)
    assert done.stdout.count("Usage: unnorm") == len(VERBS)
    assert sorted((heavy | {"pydantic", "rich"}) & set(modules.split())) == []


def test_help_keeps_options_of_one_panel_together_and_whole_sentences_of_verbs(capsys):
    _, out, _ = call(capsys, "study", "run", "--help")
    assert out.index("--engine") < out.index("On a Slurm cluster:") < out.index("--partition")
    assert "[bold]" not in out
    _, out, _ = call(capsys, "--help")
    assert "with intervals and a noise floor." in " ".join(out.split())


def test_help_flag_after_other_arguments_is_still_help(capsys):
    code, out, _ = call(capsys, "swap", "some/model", "--to", "dyt", "--help")
    assert (code, out) == call(capsys, "swap", "--help")[:2]
    code, _, err = call(capsys, "nothing", "--help")
    assert code == 2
    assert "No such command 'nothing'" in err


@pytest.mark.parametrize("path", VERBS, ids=" ".join)
def test_h_is_help(capsys, path):
    assert call(capsys, *path, "-h") == call(capsys, *path, "--help")
    assert call(capsys, *path, "-h")[0] == 0


def test_sites(capsys, bases):
    code, out, _ = call(capsys, "sites", bases["llama"])
    assert code == 0
    row = next(line for line in out.splitlines() if "model.layers.0.input_layernorm" in line)
    assert row.split() == ["model.layers.0.input_layernorm", "rmsnorm", "attention", "reads", "γ", "32", "1e-06"]
    assert all(len(line.rstrip()) <= 100 for line in out.splitlines()[1:])
    code, out, _ = call(capsys, "sites", bases["llama"], "--json")
    assert [site["role"] for site in json.loads(out)] == ["attention", "mlp", "attention", "mlp", "final"]


def test_swap_then_sites_then_evaluate(capsys, bases, data_file, tmp_path):
    out = tmp_path / "swapped"
    options = ("--to", "dyt", "--calibrate", data_file, "--template", "alpaca-short", "--tokens", 500)
    code, stdout, stderr = call(capsys, "swap", bases["gpt2"], *options, "--out", out)
    assert code == 0, stderr
    assert "R²" in stdout
    code, stdout, _ = call(capsys, "sites", out, "--json")
    assert {site["kind"] for site in json.loads(stdout)} == {"dyt"}
    losses = {}
    for model in (bases["gpt2"], out):
        code, stdout, stderr = call(
            capsys, "evaluate", model, "--data", data_file, "--template", "alpaca-short", "--json"
        )
        assert code == 0, stderr
        losses[str(model)] = json.loads(stdout)["data"][data_file]["trained"]["nats_per_token"]["value"]
    assert len(set(losses.values())) == 2
    options = ("--data", data_file, "--template", "alpaca-short", "--against", bases["gpt2"])
    code, stdout, stderr = call(capsys, "evaluate", out, *options, "--json")
    found = json.loads(stdout)["data"][data_file]["difference"]
    assert found["difference"]["value"] == pytest.approx(losses[str(out)] - losses[bases["gpt2"]])
    code, stdout, stderr = call(capsys, "evaluate", out, *options)
    assert code == 0
    assert "over the same conversations" in stdout
    code, stdout, _ = call(
        capsys, "swap", bases["gpt2"], "--bare", "--sites", "final", "--out", tmp_path / "b", "--json"
    )
    assert code == 0
    assert [site["path"] for site in json.loads(stdout)["sites"]] == ["transformer.ln_f"]


def test_a_swap_is_fitted_to_several_data_sets_and_says_how_to_go_on_with_them(capsys, bases, data_file, tmp_path):
    texts = tmp_path / "texts.jsonl"
    texts.write_text("".join(json.dumps({"text": f"red and blue {i} " * 40}) + "\n" for i in range(60)))
    data = ("--calibrate", data_file, "--calibrate", f"{texts}=3", "--template", "alpaca-short", "--tokens", 2000)
    code, _, stderr = call(capsys, "swap", bases["gpt2"], *data, "--correct", "all", "--out", tmp_path / "out")
    assert code == 0, stderr
    recover = f"unnorm recover {tmp_path / 'out'} --data {data_file} --data {texts}=3 --template alpaca-short"
    evaluate = f"unnorm evaluate {tmp_path / 'out'} --data {data_file} --template alpaca-short --against"
    assert recover in stderr or evaluate in stderr
    code, _, stderr = call(capsys, "swap", bases["gpt2"], "--calibrate", f"{data_file}=x", "--out", tmp_path / "no")
    assert (code, (tmp_path / "no").exists()) == (2, False)
    assert "a weight above 0" in stderr


def test_swap_to_another_norm_corrected(capsys, bases, data_file, tmp_path):
    options = ("--calibrate", data_file, "--template", "alpaca-short", "--tokens", 500)
    more = ("--to", "derf", "--set", "alpha_init=0.3", "--correct", "all")
    code, stdout, stderr = call(capsys, "swap", bases["gpt2"], *options, *more, "--out", tmp_path / "a", "--json")
    assert code == 0, stderr
    report = json.loads(stdout)
    assert {spec["norm"] for spec in report["specs"].values()} == {"derf"}
    assert [step["name"] for step in report["steps"]] == ["bare", "calibrated", "layers corrected"]
    kept = [step for step in report["steps"] if step["kept"]]
    corrected = bool(report["calibration"] and report["calibration"]["corrections"])
    assert corrected == (kept[-1]["name"] == "layers corrected")
    losses = [step["loss"] for step in kept]
    assert losses == sorted(losses, reverse=True)
    assert call(capsys, "evaluate", tmp_path / "a", "--data", data_file, "--template", "alpaca-short", "--json")[0] == 0
    for mode in ("sequential", "parallel"):
        code, stdout, stderr = call(capsys, "swap", bases["llama"], *options, "--mode", mode, "--out", tmp_path / mode)
        assert code == 0, stderr
    code, _, stderr = call(capsys, "swap", bases["gpt2"], "--bare", "--inherit", "--out", tmp_path / "i")
    assert code == 0, stderr
    assert "was not measured" in stderr
    assert f"\nNext:\n  unnorm evaluate {tmp_path / 'i'} --data DATA --against {bases['gpt2']}\n" in stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--bare", "--outliers", "0.1"), "belong to a fit"),
        (("--bare", "--mode", "fast"), "--mode is one of one-pass, sequential, parallel"),
        (("--bare", "--correct", "some"), "none, readers, all"),
        (("--bare", "--correct", "all"), "belong to a fit"),
        (("--bare", "--set", "colour"), "KEY=VALUE"),
        (("--bare", "--set", "colour=red"), "There are: affine, bias, alpha, alpha_init"),
        (("--bare", "--to", "batchnorm"), "Known norms: derf"),
    ],
)
def test_swap_options_that_cannot_be(capsys, bases, tmp_path, options, message):
    code, _, stderr = call(capsys, "swap", bases["gpt2"], *options, "--out", tmp_path / "o")
    assert code == 2
    assert message in stderr
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize("strategy", ["frozen", "selective", "full"])
def test_finetune_and_again(capsys, bases, data_file, tmp_path, strategy):
    options = finetune_options(bases["gpt2"], data_file, tmp_path / "run", "--strategy", strategy, "--json")
    code, out, err = call(capsys, *options)
    assert code == 0, err
    first = json.loads(out)
    assert f"{strategy} trains" in err
    assert err.splitlines()[0] == "training computes in fp32: fp32 was asked for"
    code, out, err = call(capsys, *options)
    assert code == 0
    assert json.loads(out) == first
    assert "finished already" in err


def test_finetune_on_chats_under_policies(capsys, bases, tmp_path):
    data = tmp_path / "chats.json"
    roles = ("gpt", "human", "gpt", "human", "gpt", "human", "gpt", "human")
    chats = [[{"from": role, "value": f"red blue green {i}"} for role in roles] for i in range(200)]
    data.write_text(json.dumps([{"conversations": chat} for chat in chats]))
    options = finetune_options(bases["gpt2"], data, tmp_path / "run", "--too-long", "split", "--json")
    code, _, err = call(capsys, *options, "--policy", "leading_answer=context")
    assert code == 0, err
    assert "data understood as sharegpt" in err
    assert "leading answer kept as context" in err
    assert "split by rounds" in err


def test_doctor(capsys):
    code, out, _ = call(capsys, "doctor", "--json")
    assert code == 0
    facts = json.loads(out)
    assert (
        facts["versions"]["torch"] == torch.__version__.split("+")[0] or facts["versions"]["torch"] == torch.__version__
    )
    chosen = choose("auto")
    assert facts["devices"]["precision auto"] == f"{chosen.name}. {chosen.why}"
    assert call(capsys, "doctor")[0] == 0


@pytest.mark.skipif(torch.cuda.is_available(), reason="asks for a C compiler there")
def test_doctor_says_whether_decoding_can_be_compiled(capsys, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    _, out, _ = call(capsys, "doctor", "--json")
    assert json.loads(out)["devices"]["compile (--compile, optimize_)"].startswith("no: needs a C++ compiler")
    monkeypatch.setenv("CXX", f"{sys.executable} -x")  # a command that is there, with options
    _, out, _ = call(capsys, "doctor", "--json")
    assert json.loads(out)["devices"]["compile (--compile, optimize_)"] == "yes"


def bad_input_cases(base, data, tmp):
    empty, garbled, tsv = tmp / "empty.json", tmp / "garbled.json", tmp / "rows.tsv"
    empty.write_text("")
    garbled.write_text('[{"instruction": ')
    tsv.write_text("a\tb\n")
    (tmp / "occupied").mkdir()
    (tmp / "occupied" / "thesis.txt").write_text("precious")
    (tmp / "no-model").mkdir()
    out = tmp / "out"
    return {
        "missing file": (finetune_options(base, tmp / "absent.json", out), "there is no file"),
        "empty file": (finetune_options(base, empty, out), "is empty"),
        "garbled file": (finetune_options(base, garbled, out), "not valid JSON"),
        "wrong kind of file": (finetune_options(base, tsv, out), "only .json"),
        "wrong data name": (finetune_options(base, "alpacca", out), "known name"),
        "wrong model": (finetune_options("./absent", data, out), "there is no folder"),
        "hub out of reach": (("sites", "nobody/nothing"), "cannot load the model"),
        "not a model": (("sites", tmp / "no-model"), "no config.json"),
        "no such site": (("swap", base, "--bare", "--sites", "h.9.*", "--out", out), "no site matches 'h.9.*'"),
        "no such norm": (("swap", base, "--bare", "--to", "dit", "--out", out), "Known norms: derf, dyisru, dyt"),
        "neither bare nor calibrated": (("swap", base, "--out", out), "--calibrate DATA"),
        "no such arm": (finetune_options(base, data, out, "--to", "dit"), "Known arms"),
        "no such strategy": (finetune_options(base, data, out, "--strategy", "half"), "strategy"),
        "no such LoRA target": (
            finetune_options(base, data, out, "--lora-targets", "q_proj"),
            "matches no linear layer",
        ),
        "no such trained site": (
            finetune_options(base, data, out, "--strategy", "selective", "--train-sites", "qk"),
            "no site matches",
        ),
        "rows longer than the model": (finetune_options(base, data, out, "--max-length", 128), "64 positions"),
        "rows that do not fill a step": (finetune_options(base, data, out, "--batch-tokens", 100), "multiple"),
        "a folder of something else": (finetune_options(base, data, tmp / "occupied"), "holds no run"),
        "swap into a folder of something else": (("swap", base, "--bare", "--out", tmp / "occupied"), "not replaced"),
        "an option that is none": (("sites", base, "--colour"), "--colour"),
    }


def test_bad_input_is_one_clear_message_and_exit_code_2(capsys, bases, data_file, tmp_path):
    for name, (arguments, message) in bad_input_cases(bases["gpt2"], data_file, tmp_path).items():
        code, _, err = call(capsys, *arguments)
        assert code == 2, (name, code, err)
        assert message in " ".join(err.split()), (name, err)
        assert "Traceback" not in err, name
    assert (tmp_path / "occupied" / "thesis.txt").read_text() == "precious"
    assert not (tmp_path / "out").exists()  # nothing was started


def test_a_model_without_norms(capsys, bases, data_file, tmp_path, monkeypatch):
    import unnorm.surgery.base as base_module

    class Plain(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(4, 4)

    real = base_module.load_base
    monkeypatch.setattr("unnorm.artefacts.loading.load_base", lambda name: Plain())
    code, _, err = call(capsys, "sites", bases["gpt2"])
    assert code == 2
    assert "no norm sites" in err
    assert base_module.load_base is real


def test_a_failed_run_is_exit_code_1_and_keeps_its_log(capsys, bases, data_file, tmp_path):
    out = tmp_path / "out"
    options = finetune_options(bases["gpt2"], data_file, out, "--strategy", "full", "--learning-rate", "1e30")
    code, _, err = call(capsys, *options)
    assert code == 1
    assert "non-finite at step" in err
    assert "Traceback" not in err
    assert [path.parent.parent for path in out.rglob("evaluations.jsonl")] == [out]  # in the attempt's folder


def test_debug_raises(bases):
    from unnorm import UnnormError

    with pytest.raises(UnnormError):
        run(["sites", "nobody/nothing"], debug=True)


def test_a_full_disk_is_one_message_and_leaves_what_was_there(capsys, bases, data_file, tmp_path, monkeypatch):
    import errno

    out = tmp_path / "swapped"
    assert call(capsys, "swap", bases["gpt2"], "--bare", "--out", out)[0] == 0
    before = {file.name: file.read_bytes() for file in out.iterdir()}

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("unnorm.artefacts.weights.save_file", full)
    code, _, err = call(capsys, "swap", bases["gpt2"], "--bare", "--out", out)
    assert (code, "--overwrite" in err) == (2, True)
    code, _, err = call(capsys, "swap", bases["gpt2"], "--bare", "--out", out, "--overwrite")
    assert code == 1
    assert "the disk is full" in err
    assert {file.name: file.read_bytes() for file in out.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_an_interrupted_swap_does_not_say_that_it_resumes(capsys, bases, tmp_path, monkeypatch):
    def stop(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("unnorm.study.swap_model.swap_model", stop)
    code, _, err = call(capsys, "swap", bases["gpt2"], "--bare", "--out", tmp_path / "swapped")
    assert code == 130
    assert "keeps nothing of what is half done: the same command begins again" in " ".join(err.split())


def test_an_interrupted_report_does_not_say_that_it_resumes(capsys, tmp_path, monkeypatch):
    def stop(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("unnorm.report.page.write_report", stop)
    code, _, err = call(capsys, "report", waiting_ledger(tmp_path))
    assert code == 130
    assert "keeps nothing of what is half done: the same command begins again" in " ".join(err.split())
