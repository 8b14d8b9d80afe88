"""Places that cannot be written: the user's mistake, found before anything is computed or made."""

import errno
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

import unnorm
from conftest import tiny_model
from study.small_study import study_text
from unnorm.cli.main import run
from unnorm.foundation import atomic
from unnorm.foundation.errors import ArtefactError, DiskError, SettingsError
from unnorm.foundation.places import check_file, check_folder, check_new_folder
from unnorm.study.view import STUDY

NOWHERE = "/proc/nope"


@pytest.fixture(autouse=True)
def _nothing_is_computed(monkeypatch):
    """Whoever gets as far as a model, or data, has begun too early."""

    def begun(*_, **__):
        raise AssertionError("it began to work")

    for name in (
        "unnorm.artefacts.loading.open_model",
        "unnorm.artefacts.package.package",
        "unnorm.data.repair.repair_file",
        "unnorm.data.sources.read",
        "unnorm.demo.story.tell",
        "unnorm.evaluation.judges.load_judge",
        "unnorm.report.page.write_report",
        "unnorm.study.tables.export_study",
        "unnorm.study.run_cell.run_cell",
        "unnorm.study.run_study.run_study",
        "unnorm.surgery.base.load_tokenizer",
    ):
        monkeypatch.setattr(name, begun)


def verbs(base: str, data: str, ledger: Path, out: str) -> dict[str, tuple[object, ...]]:
    study, folder, answers = ledger / "study.yaml", ledger / "small", ledger / "answers.jsonl"
    folder.mkdir(parents=True)
    study.write_text(study_text(base, data))
    (folder / STUDY).write_text("{}")
    return {
        "demo": ("demo", "--out", out),
        "finetune": ("finetune", base, "--data", data, "--out", out),
        "generate": ("generate", base, "--out", f"{out}/answers.jsonl"),
        "judge": ("judge", answers, answers, "--judge", "likelihood", "--model", base, "--out", out),
        "latency": ("latency", base, "--out", f"{out}/runs.parquet"),
        "package": ("package", base, "--out", out),
        "report": ("report", folder, "--out", out),
        "report --format": ("report", folder, "--format", "md", "--out", f"{out}/report.md"),
        "data stats": ("data", "stats", data, "--model", base, "--out", out),
        "data repair": ("data", "repair", data, "-o", f"{out}/rows.jsonl"),
        "study run": ("study", "run", study, "--ledger", out),
        "study retry": ("study", "retry", study, "--ledger", out),
        "study export": ("study", "export", study, "--ledger", ledger, "--out", out),
    }


@pytest.mark.parametrize("out", [f"{NOWHERE}/run", "a file", "a name of 300 letters"])
def test_every_verb_refuses_a_place_before_it_begins(
    capsys, bases, data_file, tmp_path, tmp_path_factory, monkeypatch, out
):
    monkeypatch.setattr("unnorm.study.view.read_study", lambda folder, **_: SimpleNamespace(folder=folder))
    (tmp_path / "file").write_text("precious")
    out = {"a file": str(tmp_path / "file"), "a name of 300 letters": str(tmp_path / ("x" * 300))}.get(out, out)
    for name, arguments in verbs(bases["gpt2"], data_file, tmp_path_factory.mktemp("ledger"), out).items():
        assert run([str(each) for each in arguments]) == 2, name
        err = capsys.readouterr().err
        assert "cannot write" in err or "is a file, and" in err, (name, err)
        assert "unexpected" not in err, name
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "precious"


@pytest.mark.skipif(os.geteuid() == 0, reason="everything is allowed to root")
def test_a_folder_without_rights(tmp_path):
    tmp_path.chmod(0o500)
    for check in (check_file, check_folder, check_new_folder):
        with pytest.raises(SettingsError, match=r"cannot write .*Permission denied"):
            check(tmp_path / "x")
    tmp_path.chmod(0o700)


def test_good_places_stay_as_they_were(tmp_path):
    (tmp_path / "old").mkdir()
    (tmp_path / "old.txt").write_text("kept")
    check_file(tmp_path / "old.txt")
    check_file(tmp_path / "deep" / "deeper" / "new.txt")
    check_folder(tmp_path / "old")
    check_folder(tmp_path / "deep" / "new")
    check_new_folder(tmp_path / "deep" / "new")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["old", "old.txt"]


def test_the_working_directory_is_no_place_for_a_new_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for here in (Path(), tmp_path):
        with pytest.raises(SettingsError, match=r"--out .* is the folder that this command runs in.*Name a new one"):
            check_new_folder(here)
        with pytest.raises(ArtefactError, match="is the working directory"):
            unnorm.save(tiny_model("gpt2"), here)
    assert list(tmp_path.iterdir()) == []


def test_a_file_where_a_folder_should_be_and_the_other_way_round(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingsError, match="is a file, and --ledger wants a folder"):
        check_folder(tmp_path / "file", "--ledger")
    with pytest.raises(SettingsError, match="is a folder, and --out wants a file"):
        check_file(tmp_path)


def test_a_full_disk_is_no_mistake_of_the_users(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("tempfile.mkdtemp", full)
    with pytest.raises(DiskError, match="the disk is full"):
        check_folder(tmp_path / "x")


def test_a_place_that_goes_while_we_work_is_one_message_too(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DiskError, match="cannot write"):
        atomic.write_bytes(tmp_path / "file" / "below.json", b"")
    with pytest.raises(DiskError, match="cannot write"):
        atomic.write_bytes(tmp_path / ("x" * 300), b"")
    with (
        pytest.raises(FileNotFoundError),
        atomic.disk_errors(tmp_path / "out.json"),
    ):  # of another file: no word of ours
        os.stat("/nowhere/else.json")
