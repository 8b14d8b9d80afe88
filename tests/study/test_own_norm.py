"""A norm of the user's own, in one file: everything works with it, from Python and from the command line."""

import copy
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

import unnorm
import warm
from conftest import tiny_model, tokens
from unnorm.foundation.errors import SettingsError
from unnorm.norms import spec as norm_specs

MINE = '''
"""Softsign: γ · α x / (1 + |α x|) + β."""
from typing import ClassVar

import torch

from unnorm import CurveSpec, register


@register
class Softsign(CurveSpec):
    norm: ClassVar[str] = "softsign"
    flat_beyond: ClassVar[float] = 2.78  # 1 / (1 + 2.78)² = 0.07

    @staticmethod
    def curve(u: torch.Tensor) -> torch.Tensor:
        return u / (1 + u.abs())
'''


@pytest.fixture
def own_file(tmp_path, monkeypatch):
    path = tmp_path / "softsign.py"
    path.write_text(MINE)
    monkeypatch.setenv(norm_specs.OWN_NORMS, str(path))
    yield path
    norm_specs._REGISTRY.pop("softsign", None)
    sys.modules.pop("unnorm_norms_of_softsign", None)


def test_calibrate_recover_swap_save_and_load(own_file, tmp_path):
    original = tiny_model("gpt2")
    spec = norm_specs.spec_from({"norm": "softsign"})
    with torch.no_grad():
        wanted = original(tokens(2)).logits
    for options in ({}, {"mode": "sequential"}, {"mode": "parallel"}, {"correct": "all"}):
        model = copy.deepcopy(original)
        report = unnorm.swap_(model, spec, calibrate_on=tokens(32), **options)
        assert min(site.r2 for site in report.calibration.sites) > 0.8
    learns = {"tokens": 10_240, "batch_tokens": 1024, "train": "norms", "precision": "fp32"}
    recovery = unnorm.recover_(model, original, tokens(64), **learns, quiet=True)
    assert recovery.kept == (recovery.kl_after <= recovery.kl_before)
    with torch.no_grad():
        found = model(tokens(2)).logits
        assert (found - wanted).square().mean() < 0.3 * wanted.var()
    unnorm.save(model, tmp_path / "saved")
    with torch.no_grad():
        torch.testing.assert_close(unnorm.load(tmp_path / "saved")(tokens(2)).logits, found)


def test_a_small_study_and_its_page_from_the_command_line(own_file, bases, data_file, tmp_path):
    study = {
        "name": "own",
        "models": [bases["gpt2"]],
        "datasets": [{"source": "alpaca", "path": str(data_file), "template": "alpaca-short"}],
        "arms": ["original", "softsign", "softsign-corrected"],
        "strategies": ["selective"],
        "training": {"tokens": 600, "max_length": 64, "batch_tokens": 256, "precision": "fp32"},
        "evaluation": {"every_tokens": 600, "tokens": 300},
    }
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(study))
    environment = {**os.environ, norm_specs.OWN_NORMS: str(own_file), "OMP_NUM_THREADS": "1"}

    def command(*arguments: str) -> str:
        done = subprocess.run(
            [warm.interpreter(), "-m", "unnorm", *arguments],
            env=environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    command("study", "run", "own.yaml")
    rows = json.loads(command("study", "table", "own.yaml", "--json"))
    states = {row["arm"]: row["state"] for row in (rows["rows"] if isinstance(rows, dict) else rows)}
    assert states == dict.fromkeys(study["arms"], "done")
    page = next(Path(tmp_path).rglob("*.html"), None)
    if page is None:
        folder = next(path.parent for path in tmp_path.rglob("results.csv"))
        command("report", str(folder))
        page = next(Path(tmp_path).rglob("*.html"))
    assert "softsign" in page.read_text()


def test_a_file_that_fails_or_is_not_there_is_said(tmp_path, monkeypatch):
    monkeypatch.setenv(norm_specs.OWN_NORMS, str(tmp_path / "absent.py"))
    with pytest.raises(SettingsError, match="not a file"):
        norm_specs.known_norms()
    (tmp_path / "broken.py").write_text("1 / 0")
    monkeypatch.setenv(norm_specs.OWN_NORMS, str(tmp_path / "broken.py"))
    with pytest.raises(SettingsError, match="ZeroDivisionError"):
        norm_specs.known_norms()


def test_a_name_that_is_taken_is_refused():
    class Dyt(norm_specs.NormSpec):
        norm = "dyt"

    with pytest.raises(SettingsError, match="is taken by"):
        norm_specs.register(Dyt)
