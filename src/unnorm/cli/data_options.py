"""Options that every verb shares which reads data, and the settings they make."""

from typing import Annotated, Any

import typer

from unnorm.cli.options import option_of
from unnorm.cli.output import typed
from unnorm.data.formats import FORMATS
from unnorm.data.known import KNOWN
from unnorm.data.templates import TEMPLATE_HELP
from unnorm.foundation.errors import SettingsError
from unnorm.foundation.nearest import did_you_mean

DATA_HELP = f"{', '.join(KNOWN)}; a file, a folder, - for stdin; or a hub id."
LOSS_ON_HELP = "answer: all answers; last: the last one; all: prompts too; or roles: user,assistant."

Data = Annotated[str, typer.Argument(metavar="DATA", help=DATA_HELP)]
Tokenizer = Annotated[str, typer.Option("--model", metavar="MODEL", help="Whose tokenizer: a hub id or a folder.")]
LocalPath = Annotated[str | None, typer.Option("--path", help="A local file or folder for a known name.")]
Subset = Annotated[str | None, typer.Option(help="Configuration of a hub data set.")]
Split = Annotated[str, typer.Option(help="Split of a hub data set or a folder.")]
Streaming = Annotated[bool, typer.Option("--streaming", help="From the hub: fetch only what is used.")]
RowFormat = Annotated[
    str | None,
    typer.Option("--format", help=f"{', '.join(form.name for form in FORMATS)}."),
]
Repair = Annotated[bool, typer.Option("--repair", help="Of damaged JSON, read what can be saved; say what is lost.")]
Map = Annotated[
    str | None,
    typer.Option(metavar="FIELD=COLUMN,...", help="Your columns, as in instruction=prompt,output=answer."),
]
Rows = Annotated[int | None, typer.Option(min=1, help="Use this many at most, from the start.")]
Policy = Annotated[
    list[str] | None,
    typer.Option(
        "--policy",
        metavar="KEY=VALUE",
        help="What is done about an oddity, as in leading_answer=context; docs/data.md lists them.",
    ),
]
Template = Annotated[str, typer.Option(help=f"{TEMPLATE_HELP}.")]
MaxLength = Annotated[int, typer.Option(min=2, help="Tokens a row.")]
LossOn = Annotated[str, typer.Option(help=LOSS_ON_HELP)]
TooLong = Annotated[str, typer.Option(help="Longer than a row: drop, keep-start, keep-end, split (by rounds).")]
HeldOut = Annotated[float, typer.Option(metavar="SHARE", help="Never trained on, but evaluated on; between 0 and 1.")]

ShardingOption = Annotated[
    str, typer.Option(help="Over several devices: ddp, the whole model on each; fsdp (FSDP2), a part of it on each.")
]

CompileOption = Annotated[
    bool,
    typer.Option(
        "--compile", help="Compile the model's blocks (torch.compile): a slow first step, then mostly faster ones."
    ),
]


def settings_from(policy: list[str] | None, **values: Any) -> Any:
    """`DataSettings` of options. What is wrong with one is a `SettingsError` that names it."""
    from unnorm.data.settings import DataSettings
    from unnorm.foundation.validation import Misplaced, sentence, validated

    try:
        return validated(DataSettings, values_from(policy, **values))
    except Misplaced as error:
        raise SettingsError(f"{option_of(error.location)}: {sentence(error)}") from error


def as_given(**options: Any) -> str:
    """Options of how data is read, as one writes them again behind DATA; those at their default are left out."""
    from unnorm.data.settings import DataSettings

    words = []
    for name, value in options.items():
        if value not in (None, False, DataSettings.model_fields[name].default):
            words += ["--" + name.replace("_", "-"), *([] if value is True else [typed(value)])]
    return " ".join(["", *words])


def values_from(policy: list[str] | None, **values: Any) -> dict[str, Any]:
    """Options as a study file has them: what has several values is taken apart, what is not given is left out."""
    policies: dict[str, Any] = {}
    for pair in policy or []:
        key, equals, value = pair.partition("=")
        if not equals:
            raise SettingsError(f"--policy wants KEY=VALUE, as in --policy leading_answer=context, not {pair!r}.")
        policies[key] = value.split(",") if key == "languages" else value
    if not values.get("map"):
        values.pop("map", None)
    if "loss_on" in values:
        values["loss_on"] = loss_on_from(values["loss_on"])
    return {"policies": policies, **values} if policies else values


def loss_on_from(text: str) -> str | tuple[str, ...]:
    """What `--loss-on` means: a word, or roles with commas between them. Raises `SettingsError`."""
    from typing import get_args

    from unnorm.data.settings import Role

    if text in ("answer", "last", "all"):
        return text
    roles = tuple(text.split(","))
    if not set(roles) <= set(get_args(Role)):
        raise SettingsError(
            f"--loss-on is answer, last, all, or roles of {', '.join(get_args(Role))} with commas, not {text!r}."
            f"{did_you_mean(text, ('answer', 'last', 'all', *get_args(Role)))}"
        )
    return roles
