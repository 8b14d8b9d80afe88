import errno
import os
import subprocess
import sys

import pytest

from unnorm.foundation import atomic
from unnorm.foundation.errors import DataError, DiskError


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "x" / "file.json"
    atomic.write_json(path, {"a": 1})
    assert atomic.read_json(path) == {"a": 1}

    def fail(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(atomic.os, "fsync", fail)
    with pytest.raises(DiskError, match="the disk is full"):
        atomic.write_json(path, {"a": 2})
    assert atomic.read_json(path) == {"a": 1}
    assert [p.name for p in path.parent.iterdir()] == ["file.json"]


def test_damaged_json_is_named(tmp_path):
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(DataError, match=r"bad\.json is not valid JSON"):
        atomic.read_json(tmp_path / "bad.json")


def test_a_folder_takes_the_place_of_the_old_one_whole(tmp_path):
    target = tmp_path / "out"
    with atomic.folder(target) as fresh:
        (fresh / "a").write_text("1")
    with atomic.folder(target) as fresh:
        (fresh / "b").write_text("2")
        assert (target / "a").exists()
    assert [p.name for p in target.iterdir()] == ["b"]
    with pytest.raises(ZeroDivisionError):
        fail_within(target)
    assert [p.name for p in target.iterdir()] == ["b"]
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def fail_within(target):
    with atomic.folder(target) as fresh:
        (fresh / "c").write_text("3")
        raise ZeroDivisionError


@pytest.mark.parametrize("there", [True, False])
def test_a_folder_behind_a_link_is_replaced_where_it_lies(there, tmp_path):
    """As where `out` is a link to a larger disk."""
    link, target = tmp_path / "out", tmp_path / "disk" / "real"
    if there:
        target.mkdir(parents=True)
    link.symlink_to(target)
    for name in ("a", "b"):
        with atomic.folder(link) as fresh:
            (fresh / name).write_text("1")
        assert link.is_symlink()
        assert [path.name for path in target.iterdir()] == [name]
    assert [path.name for path in tmp_path.iterdir() if path.name not in ("out", "disk")] == []
    os.replace(target, target.parent / ".real.old")  # a kill between the two renames
    atomic.restore_folder(link)
    assert (link / "b").exists()


def test_a_kill_between_the_two_renames_leaves_the_old_folder_to_be_restored(tmp_path):
    program = f"""
import os, pathlib
from unnorm.foundation import atomic
target = pathlib.Path({str(tmp_path / "out")!r})
with atomic.folder(target) as fresh: (fresh / "a").write_text("old")
real, calls = os.replace, []
def replace(a, b):
    real(a, b); calls.append(1)
    if len(calls) == 1: os._exit(9)
atomic.os.replace = replace
with atomic.folder(target) as fresh: (fresh / "a").write_text("new")
"""
    assert subprocess.run([sys.executable, "-c", program]).returncode == 9
    assert not (tmp_path / "out").exists()
    atomic.restore_folder(tmp_path / "out")
    assert (tmp_path / "out" / "a").read_text() == "old"


def test_permission_is_a_clear_error(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(atomic.tempfile, "mkstemp", refuse)
    with pytest.raises(DiskError, match="mend the rights"):
        atomic.write_json(tmp_path / "x.json", {})
