"""Every command of unnorm that a page shows is one: the verb and the options exist, and values are such as it takes."""

from pathlib import Path
from typing import Any

import pytest
import typer

from docs.pages import NAMES, ROOT, Command, commands
from unnorm.cli.main import app

ROOT_OF_VERBS: Any = typer.main.get_command(app)


def fault(command: Command) -> str | None:
    """What is wrong with a command, by typer's own parser; nothing is run."""
    verb = ROOT_OF_VERBS
    path, rest = "unnorm", list(command.arguments)
    while hasattr(verb, "commands"):
        if not rest or rest[0].startswith("-"):
            break
        if rest[0] not in verb.commands:
            return f"{path} has no verb {rest[0]!r}"
        path, verb = f"{path} {rest[0]}", verb.commands[rest.pop(0)]
    if rest in (["--help"], ["-h"], ["--version"]) or (not command.whole and not rest):
        return None
    try:
        verb.make_context(path, rest)
    except Exception as error:
        if type(error).__name__ == "MissingParameter" and not command.whole:
            return None
        return f"{path}: {type(error).__name__}: {getattr(error, 'message', error)}"
    return None


@pytest.mark.parametrize("name", NAMES)
def test_every_command_on_a_page_is_understood(name):
    faults = {" ".join(command.arguments): fault(command) for command in commands((ROOT / name).read_text())}
    assert not {line: words for line, words in faults.items() if words}


def test_commands_are_found_in_blocks_and_in_the_text():
    page = (
        "Do `unnorm swap --to dyt`, or `unnorm.swap_`.\n\n"
        "```sh\nunnorm check out/  # what is it?\nX=1 unnorm study run a.yaml \\\n  --workers 2 > log\n```\n\n"
        "1. In a list:\n\n   ```\n   torchrun --nproc-per-node 4 -m unnorm recover IN ...\n   ```\n\n"
        "```python\nunnorm swap\n```\n"
    )
    assert commands(page) == [
        Command(["check", "out/"], True),
        Command(["study", "run", "a.yaml", "--workers", "2"], True),
        Command(["recover", "IN"], False),
        Command(["swap", "--to", "dyt"], False),
    ]
    assert len(commands(Path(ROOT / "README.md").read_text())) > 10


def test_a_command_that_does_not_exist_is_seen():
    assert fault(Command(["swop", "m"], True)) == "unnorm has no verb 'swop'"
    assert fault(Command(["study", "begin"], False)) == "unnorm study has no verb 'begin'"
    assert "NoSuchOption" in str(fault(Command(["check", "out/", "--fast"], False)))
    assert "MissingParameter" in str(fault(Command(["swap", "m"], True)))
    assert fault(Command(["swap", "m"], False)) is None
    assert "BadParameter" in str(fault(Command(["swap", "m", "--out", "o", "--tokens", "many"], True)))
    assert fault(Command(["swap", "m", "--out", "o"], True)) is None
