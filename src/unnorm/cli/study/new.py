"""`unnorm study new` and `schema`."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from unnorm.cli import data_options as o
from unnorm.cli.options import token_count
from unnorm.cli.output import JsonOption, emit_json, say, say_next, typed
from unnorm.foundation.errors import ArtefactError, DataError, SettingsError

EXAMPLE = "Example: [bold]unnorm study new study.yaml --model EleutherAI/pythia-14m --data alpaca[/bold]"


def new(
    study: Annotated[Path, typer.Argument(metavar="STUDY.yaml", help="The file to write.")] = Path("study.yaml"),
    model: Annotated[
        list[str] | None, typer.Option(metavar="MODEL", help="A hub id or a folder; again for more.")
    ] = None,
    data: Annotated[list[str] | None, typer.Option(metavar="DATA", help=o.DATA_HELP + " Again for more.")] = None,
    arm: Annotated[list[str] | None, typer.Option(help="original, dyt, dyt-bare, ...; again for more.")] = None,
    strategy: Annotated[list[str] | None, typer.Option(help="frozen, selective, full; again for more.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="How many seeds.")] = 1,
    tokens: Annotated[str | None, typer.Option(help="Training tokens of each cell: 1M, 500k or a number.")] = None,
    name: Annotated[str | None, typer.Option(help="The study's name; by default the file's.")] = None,
    template: o.Template = "alpaca",
    repair: o.Repair = False,
    map: o.Map = None,
    json: JsonOption = False,
) -> None:
    """Write a commented study file that you can run as it is, and change from there.

    On a terminal it asks for the model, the data and the rest, unless you give --model and --data.
    """
    from unnorm.study.new_file import ARMS, STRATEGIES, NewStudy, study_text

    if study.exists():
        raise ArtefactError(f"{study} exists already. Give another name, or delete it first.")
    ask = _asked if sys.stdin is not None and sys.stdin.isatty() and not (model and data) else _not_asked
    models = model or ask("Which model? A hub id or a folder", None, "--model")
    sources = data or ask("Which data? alpaca, a file, a folder or a hub id", None, "--data", _check_sources)
    _check_sources(sources)
    arms = arm or ask("Which arms?", " ".join(ARMS), "--arm", _check_arms)
    trains = "What trains? frozen, selective, full"
    strategies = strategy or ask(trains, " ".join(STRATEGIES), "--strategy", _check_strategies)
    length = tokens or ask("How many training tokens a cell?", "1M", "--tokens", _check_tokens)[0]
    settings = {"template": template, "map": map, "repair": repair}
    settings = {key: value for key, value in settings.items() if value and value != "alpaca"}
    datasets = [{"source": source, **settings} for source in sources]
    wanted = NewStudy(models, datasets, arms, strategies, seeds, token_count(length, "--tokens"))
    text = study_text(wanted, study, name)
    _write(study, text)
    if json:
        emit_json({"study": str(study)})
        return
    say_next(f"The study is in {study}.", f"unnorm study plan {typed(study)}", f"unnorm study run {typed(study)}")


def _write(study: Path, text: str) -> None:
    from unnorm.foundation import atomic
    from unnorm.foundation.places import check_file

    check_file(study)
    atomic.write_bytes(study, text.encode())


def _asked(
    question: str, default: str | None, option: str, check: Callable[[list[str]], Any] = lambda words: None
) -> list[str]:
    """The words of an answer that holds; one that does not is asked for again."""
    while True:
        words: list[str] = typer.prompt(question, default=default, err=True).replace(",", " ").split()
        try:
            check(words)
            return words
        except (SettingsError, DataError) as error:
            say(str(error))


def _not_asked(
    question: str, default: str | None, option: str, check: Callable[[list[str]], Any] = lambda words: None
) -> list[str]:
    if default is None:
        raise SettingsError(f"give {option}, as in {EXAMPLE.partition('[bold]')[2].partition('[/')[0]}")
    return default.split()


def _check_sources(words: list[str]) -> None:
    from unnorm.data.sources import check_source

    for word in words:
        check_source(word)


def _check_arms(words: list[str]) -> None:
    from unnorm.study.arms import arm_from

    for word in words:
        arm_from(word)


def _check_strategies(words: list[str]) -> None:
    from unnorm.cli.options import check_choice
    from unnorm.tuning.settings import STRATEGIES

    for word in words:
        check_choice("a strategy", word, STRATEGIES)


def _check_tokens(words: list[str]) -> None:
    token_count(" ".join(words), "the number")


def schema(json: JsonOption = True) -> None:
    """Print the JSON Schema of study files, for editors."""
    from unnorm.study.spec import StudyFile as Spec

    emit_json(Spec.model_json_schema())
