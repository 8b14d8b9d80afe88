"""What docs/design.md says of rooms, verbs and rules is so."""

import re
import tomllib
from pathlib import Path

import typer

from unnorm.cli.main import app

ROOT = Path(__file__).parents[1]
DESIGN = (ROOT / "docs" / "design.md").read_text()


def section(title: str) -> str:
    return DESIGN.split(f"\n## {title}\n")[1].split("\n## ")[0]


def test_the_rooms_are_those_that_are_checked_highest_first():
    told = re.findall(r"^\| `(\w+)` \|", section("Rooms"), re.MULTILINE)
    contract = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"][0]
    checked = [set(layer.split(" | ")) for layer in contract["layers"]]
    assert [{room} for room in told if {room} in checked] == [layer for layer in checked if len(layer) == 1]
    assert set(told) == set().union(*checked) == {path.parent.name for path in ROOT.glob("src/unnorm/*/__init__.py")}


def test_the_verbs_are_those_of_the_command_line():
    sentence = re.search(r"The verbs of the command line are\s(.*?)\.\n", section("Public face"), re.DOTALL)
    assert sentence is not None
    told = re.findall(r"`(\w+)`", sentence[1])
    verbs = set(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
    assert sorted(told) == sorted(verbs)


def test_every_rule_has_a_test():
    told = re.findall(r"^\| (\d\d) \|", section("Rules that came from failures"), re.MULTILINE)
    tests = "\n".join(path.read_text() for path in ROOT.glob("tests/**/test_*.py"))
    tested = set(re.findall(r"def test_rule_(\d\d)_", tests))
    assert told == sorted(tested)
