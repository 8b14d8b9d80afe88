"""The reference of the command line, as Markdown, from what typer knows of it."""

import re
from collections.abc import Iterator
from typing import Any

INTRODUCTION = """\
# Command line

Every verb of `unnorm`, with every argument and option. Your own copy prints the same:

```sh
unnorm --help
unnorm swap --help
```

MODEL is a hub id or a folder. DATA is a known name (`alpaca`, `sharegpt`, `rewild`), a file, a folder or a hub id.
Exit codes: 0 done; 1 a run failed, and what finished is kept; 2 a mistake in the input, and nothing was started; 130
interrupted, and the same command goes on from there.
"""


def command_line() -> str:
    """The page."""
    import typer

    from unnorm.cli.main import app

    return "\n".join([INTRODUCTION, *_commands("unnorm", typer.main.get_command(app))])


def _commands(path: str, command: Any) -> Iterator[str]:
    group = getattr(command, "commands", None)
    if path != "unnorm" or group is None:
        yield f"## `{path}`\n"
    if group is not None:
        if path != "unnorm":
            yield f"{_prose(command.help)}\n"
        else:
            yield f"{_options(command)}\n"
        for name, inner in group.items():
            yield from _commands(f"{path} {name}", inner)
        return
    yield f"{_prose(command.help)}\n"
    yield f"```text\n{_usage(path, command)}\n```\n"
    examples = re.findall(r"\[bold\](.*?)\[/bold\]", command.epilog or "", re.DOTALL)
    if examples:
        yield "```sh\n" + "\n".join(" ".join(example.split()) for example in examples) + "\n```\n"
    yield f"{_options(command)}\n"


def _usage(path: str, command: Any) -> str:
    arguments = [_argument(each) for each in command.params if each.param_type_name == "argument"]
    return " ".join([path, *arguments, "[OPTIONS]"])


def _argument(parameter: Any) -> str:
    name = parameter.metavar or parameter.name.upper()
    name = f"{name}..." if parameter.nargs == -1 else name
    return name if parameter.required else f"[{name}]"


def _options(command: Any) -> str:
    """A table, a row a parameter."""
    rows = ["| | default | |", "|---|---|---|"]
    for each in command.params:
        if getattr(each, "hidden", False) or each.name == "help":
            continue
        if each.param_type_name == "argument":
            name = f"`{_argument(each).strip('[]')}`"
        else:
            spelt = "`, `".join(each.opts + each.secondary_opts)
            value = "" if each.is_flag else f" {each.metavar or each.name.upper()}"
            name = f"`{spelt}{value}`" + (", repeatable" if each.multiple else "")
        rows.append(f"| {name} | {_default(each)} | {_prose(each.help or '').replace('|', chr(92) + '|')} |")
    return "\n".join(rows)


def _default(parameter: Any) -> str:
    if parameter.required:
        return "required"
    value = parameter.default
    if value is None or value is False or value == ():
        return ""
    return f"`{value}`"


def _prose(text: str | None) -> str:
    """Help as Markdown: rich's bold in ours, and nothing that would be read as a tag."""
    text = re.sub(r"\[/?bold\]", "**", text or "")
    return text.replace("<", "&lt;").replace("\\[", "[").strip()
