"""Names that people give to models and data sets: results show them, and no cell depends on them."""

import csv
import json
import shutil
from pathlib import Path

import pytest

from cli.test_main import call
from study.small_study import run_text
from unnorm.foundation import atomic
from unnorm.foundation.errors import SettingsError
from unnorm.foundation.hashing import hash_json
from unnorm.report.formats import FORMATS
from unnorm.study.spec import parse_spec
from unnorm.study.view import read_study

STUDY = """\
name: try
models: [some/model, {name: mine, model: some/model@v2}]
datasets: [{source: alpaca, rows: 100}]
arms: [original, dyt]
exclude: [{model: mine, strategy: full}]
"""


def named(text: str, **changes) -> str:
    """A study's text with names of people's own for its model and data."""
    content = json.loads(text)
    (model,), (data,) = content["models"], content["datasets"]
    names = {"models": [{"name": "Tiny GPT-2", "model": model}], "datasets": [{**data, "name": "colours"}]}
    return json.dumps({**content, "name": "named", **names, **changes})


@pytest.fixture
def ledger(small, tmp_path) -> Path:
    return Path(shutil.copytree(small[1], tmp_path / "ledger"))


def test_a_model_has_the_name_that_the_file_gives():
    spec = parse_spec(STUDY, "x.yaml")
    assert spec.model_names == ["some/model", "mine"]
    found = {(cell.model, cell.model_name, cell.strategy) for cell in spec.cells()}
    assert ("some/model@v2", "mine", "frozen") in found
    assert ("some/model", "some/model", "full") in found
    assert not [cell for cell in found if cell[1:] == ("mine", "full")]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("name: mine, ", ""), "line 2: models.1.name: this key is missing"),
        (("@v2", "@v2, path: x"), "line 2: models.1.path: there is no such key. There are: name, model"),
        (("name: mine", "name: some/model"), "line 2: models: each may stand once, not some/model, some/model. Give"),
        (("@v2", ""), "line 2: models: each model may stand once, not some/model, some/model"),
        (("model: mine", "model: some/model@v2"), "there is no model 'some/model@v2' in this study; it has some/model"),
    ],
)
def test_what_is_wrong_with_a_name(change, message):
    with pytest.raises(SettingsError) as caught:
        parse_spec(STUDY.replace(*change), "x.yaml")
    assert message in str(caught.value)


def test_names_are_shown_and_no_cell_is_trained_for_them(small, ledger, tmp_path, capsys):
    text, said = small[0], []
    run_text(named(text), ledger, say=said.append)
    assert "4 cells: 4 finished before, 0 to run" in said
    with open(ledger / "named" / "results.csv") as file:
        rows = list(csv.DictReader(file))
    assert {(row["model"], row["dataset"], row["state"]) for row in rows} == {("Tiny GPT-2", "colours", "done")}
    view = read_study(ledger / "named")
    assert (view.models, view.datasets) == (["Tiny GPT-2"], ["colours"])
    assert view.audit["matched"] is True
    assert "Tiny GPT-2" in FORMATS["md"](view)
    (tmp_path / "study.yaml").write_text(named(text))
    study = (str(tmp_path / "study.yaml"), "--ledger", str(ledger))
    code, out, err = call(capsys, "study", "plan", *study)
    assert code == 0, err
    assert "Tiny GPT-2 / colours" in " ".join(out.split())
    assert "Next:" not in err  # all is done
    code, _, err = call(capsys, "study", "run", *study)
    assert code == 0, err
    assert f"The results are in {ledger / 'named' / 'results.csv'}.\nNext:\n  unnorm study compare" in err
    assert f"--ledger {ledger}\n  unnorm report {ledger / 'named'}" in err
    code, out, _ = call(capsys, "study", "compare", *study, "--json")
    assert {(row["model"], row["dataset"]) for row in json.loads(out)["comparisons"]} == {("Tiny GPT-2", "colours")}
    code, out, _ = call(capsys, "study", "table", *study, "--json")
    assert {row["model"] for row in json.loads(out)} == {"Tiny GPT-2"}


def test_cells_of_a_ledger_that_hashed_a_data_sets_name_are_found(small, ledger):
    for folder in (ledger / "cells").iterdir():  # as they were made then
        cell = atomic.read_json(folder / "cell.json")
        settings = {**cell["settings"], "data": {**cell["settings"]["data"], "name": "colours"}}
        atomic.write_json(folder / "cell.json", {"cell": hash_json(settings), "settings": settings})
        for entry in (folder / "lease").iterdir():
            entry.write_text(entry.read_text().replace(cell["cell"], hash_json(settings)))
        s = settings
        names = (s["model"]["name"], "colours", s["arm"]["id"], s["strategy"], f"s{s['seed']}")
        folder.rename(folder.with_name("-".join((*names, hash_json(settings)))))
    said: list[str] = []
    view = run_text(named(small[0]), ledger, say=said.append)
    assert "4 cells: 4 finished before, 0 to run" in said
    assert all(cell.done for cell in view.cells)
    assert view.audit["matched"] is True
    said.clear()
    run_text(named(small[0], arms=["original"], datasets=json.loads(small[0])["datasets"]), ledger, say=said.append)
    assert "2 cells: 0 finished before, 2 to run" in said  # without the name it is another cell there
