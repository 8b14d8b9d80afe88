"""Folders as people have them: downloaded repositories, notebooks' checkpoints, what other systems leave behind."""

import gzip
import io
import json
import zipfile

import pytest

from cli.test_data import call
from unnorm.data.files import rows_of
from unnorm.data.folders import choose, split_of
from unnorm.data.settings import DataSettings
from unnorm.data.sources import read
from unnorm.foundation.errors import DataError


def row(text: str) -> dict[str, str]:
    return {"prompt": f"say {text}", "response": text}


def fill(folder, *names):
    """Write files whose one row says which file it is of."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".parquet":
            import pyarrow as pa
            import pyarrow.parquet as pq

            pq.write_table(pa.Table.from_pylist([row(name)]), path)
        elif path.suffix == ".json":
            path.write_text(json.dumps([row(name)]))
        else:
            text = json.dumps(row(name)).encode()
            path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)


def found(folder, split="train"):
    return [each["response"] for each in rows_of(str(folder), split)]


def test_hidden_files_are_left_out_and_that_is_said(capsys, tmp_path, bases):
    hidden = (
        ".ipynb_checkpoints/a-checkpoint.jsonl",
        ".git/x.json",
        "sub/.cache/y.jsonl",
        "__MACOSX/z.jsonl",
        "~$b.csv",
    )
    fill(tmp_path, "a.jsonl", "sub/b.jsonl", *hidden)
    (tmp_path / "._a.jsonl").write_bytes(b"\0\5\x16\7\0\2\0\0Mac OS X")
    assert found(tmp_path) == ["a.jsonl", "sub/b.jsonl"]
    code, out, err = call(capsys, "data", "preview", tmp_path, "--model", bases["gpt2"], "--template", "plain")
    assert code == 0, err
    assert "2 rows, 2 conversations" in err
    assert f"the folder {tmp_path}: reads a.jsonl, sub/b.jsonl; left out, hidden: ._a.jsonl, .git/x.json" in err
    options = ("--model", bases["gpt2"], "--template", "plain", "--json")
    code, out, _ = call(capsys, "data", "preview", tmp_path, *options)
    (files,) = json.loads(out)["files"]
    assert files["taken"] == ["a.jsonl", "sub/b.jsonl"]
    assert set(files["left_out"]) == {"._a.jsonl", *hidden}


def test_a_folder_that_is_itself_within_a_hidden_one(tmp_path):
    """As the hub's cache is, in ~/.cache."""
    fill(tmp_path, ".cache/hub/data/a.jsonl")
    assert found(tmp_path / ".cache" / "hub") == [".cache/hub/data/a.jsonl"]


@pytest.mark.parametrize(
    ("names", "splits"),
    [
        (
            ["data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet",
             "data/test-00000-of-00001-a1b2c3.parquet"],
            {"train": [0, 1], "test": [2]},
        ),
        (["train.jsonl", "test.jsonl", "validation.jsonl"], {"train": [0], "test": [1], "validation": [2], "val": [2]}),
        (["train.jsonl.gz", "dev.jsonl.gz"], {"train": [0], "validation": [1], "dev": [1]}),
        (["train/a.json", "train/b.json", "eval/a.json"], {"train": [0, 1], "test": [2]}),
        (["alpaca_train_en.json", "alpaca-test.json"], {"train": [0], "test": [1]}),
        (["a.jsonl", "b.jsonl", "test.jsonl"], {"train": [0, 1], "test": [2]}),
        (["main/train-00000-of-00001.parquet", "main/test-00000-of-00001.parquet"], {"train": [0], "test": [1]}),
        (["auxiliary_train-00000-of-00001.parquet", "dev-00000-of-00001.parquet"], {"train": [0], "dev": [1]}),
        (
            ["train_sft-00000-of-00001.parquet", "train_gen-00000-of-00001.parquet", "test_sft-00000-of-00001.parquet"],
            {"train_sft": [0], "train_gen": [1], "test": [2], "test_sft": [2]},
        ),
        (["latest.jsonl", "contest.jsonl", "trains.jsonl", "data-00000-of-00001.jsonl"], {"train": [0, 1, 2, 3]}),
    ],
)  # fmt: skip
def test_splits_are_told_by_names(tmp_path, names, splits):
    fill(tmp_path, *names)
    for split, places in splits.items():
        assert sorted(found(tmp_path, split)) == sorted(names[i] for i in places), split


def test_what_is_beside_a_file_named_train_is_said_to_be_left_out(tmp_path):
    fill(tmp_path, "train.jsonl", "more.jsonl", "test.jsonl")
    (files,) = read(DataSettings(source=str(tmp_path)), quiet=True).files
    assert files.taken == ["train.jsonl"]
    assert files.left_out == {"more.jsonl": "not named as of a split", "test.jsonl": "of the split test"}


@pytest.mark.parametrize(
    ("names", "split", "message"),
    [
        (["test.jsonl"], "train", r"no split 'train'.*it has: test"),
        (["train_sft-00000-of-00001.jsonl", "train_gen-00000-of-00001.jsonl"], "train", "it has: train_gen, train_sft"),
        (["train.jsonl"], "test", "it has: train"),
        (["a.jsonl"], "test", "has no splits"),
        ([".ipynb_checkpoints/a.jsonl"], "train", r"holds no data \(left out, hidden: .ipynb_checkpoints/a.jsonl\)"),
        (["dataset_infos.json"], "train", r"holds no data \(left out, about the data: dataset_infos.json\)"),
        (["a.jsonl", "a.jsonl.gz"], "train", "a.jsonl and a.jsonl.gz, which may be the same rows twice"),
        (["train.parquet", "train.json", "test.json"], "train", "train.json and train.parquet"),
    ],
)
def test_what_is_refused(tmp_path, names, split, message):
    fill(tmp_path, *names)
    with pytest.raises(DataError, match=message):
        found(tmp_path, split)


def test_what_is_about_the_data_is_no_data(tmp_path):
    fill(tmp_path, "data/a.jsonl", "dataset_infos.json", "sub/state.json", "sub/dataset_info.json", "README.md")
    assert found(tmp_path) == ["data/a.jsonl"]


def test_what_a_repair_wrote_beside_its_records_is_no_data(tmp_path):
    fill(tmp_path, "a.jsonl", "a.jsonl.report.jsonl", "a.jsonl.rejected.jsonl", "b.report.jsonl")
    assert found(tmp_path) == ["a.jsonl", "b.report.jsonl"]


def test_a_folder_of_folders_that_datasets_saved(tmp_path):
    import datasets

    for split in ("train", "test"):
        datasets.Dataset.from_list([row(split)]).save_to_disk(tmp_path / split)
    (tmp_path / "train" / "cache-1234.arrow").write_bytes(b"what a map left behind")
    assert found(tmp_path) == ["train"]
    assert found(tmp_path, "test") == ["test"]


def zipped(path, *names):
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, json.dumps(row(name)))
    return path


def test_a_zip_is_chosen_from_as_a_folder_is(tmp_path):
    names = ("train.jsonl", "test.jsonl", "__MACOSX/._train.jsonl", ".ipynb_checkpoints/train-checkpoint.jsonl")
    path = zipped(tmp_path / "data.zip", *names)
    assert found(path) == ["train.jsonl"]
    assert found(path, "test") == ["test.jsonl"]
    (files,) = read(DataSettings(source=str(path)), quiet=True).files
    assert files.left_out["__MACOSX/._train.jsonl"] == "hidden"
    assert found(zipped(tmp_path / "one.zip", "test.jsonl")) == ["test.jsonl"]
    with pytest.raises(DataError, match="has no splits"):
        found(zipped(tmp_path / "none.zip", "a.jsonl", "b.jsonl"), "test")


def test_zips_in_a_folder(tmp_path):
    zipped(tmp_path / "train.zip", "a.jsonl", "b.jsonl")
    zipped(tmp_path / "test.zip", "c.jsonl")
    assert found(tmp_path) == ["a.jsonl", "b.jsonl"]
    assert found(tmp_path, "test") == ["c.jsonl"]
    zipped(
        tmp_path / "more" / "all.zip" if (tmp_path / "more").mkdir() is None else tmp_path, "train.jsonl", "dev.jsonl"
    )
    assert found(tmp_path / "more") == ["train.jsonl"]


def test_a_named_file_is_read_whatever_it_is_called(tmp_path):
    fill(tmp_path, "test.jsonl", ".hidden.jsonl", "state.json")
    for name in ("test.jsonl", ".hidden.jsonl", "state.json"):
        assert found(tmp_path / name) == [name]


def test_stdin_as_a_zip_has_splits_too(monkeypatch):
    import sys

    from unnorm.data import files

    out = io.BytesIO()
    zipped(out, "train.jsonl", "test.jsonl")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(out.getvalue())))
    files._stdin.cache_clear()
    assert [each["response"] for each in rows_of("-", "test")] == ["test.jsonl"]
    files._stdin.cache_clear()


def test_many_files_are_named_shortly_and_names_are_made_safe_to_print():
    chosen = choose([f"{n:02}\x1b[31m.jsonl" for n in range(12)], "train", "x")
    assert str(chosen).endswith("04\\u001b[31m.jsonl and 7 more")
    assert str(chosen).startswith("x: reads 00\\u001b[31m.jsonl, 01")


def test_names_that_say_nothing():
    assert [split_of(name) for name in ("a.jsonl", "train_test.json", "pretrained/a.json")] == [None] * 3
