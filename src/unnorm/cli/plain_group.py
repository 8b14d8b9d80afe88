"""Verbs and groups of them: typer's, with plain help, which costs a third of what rich's costs to print, and with what
typer says about a value in pydantic's words said in ours."""

import re
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperCommand, TyperGroup

_BOLD = re.compile(r"\[bold\](.*?)\[/bold\]")
_CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


class _Plain(TyperCommand if TYPE_CHECKING else object):  # type: ignore[misc]
    """Help as plain text. Options of one `rich_help_panel` stand together under its name."""

    def get_help(self, ctx: Any) -> str:
        """With what the output's encoding lacks replaced: click writes UTF-8 where that is ASCII."""
        text, encoding = str(super().get_help(ctx)), sys.stdout.encoding or "utf-8"
        return text.encode(encoding, "replace").decode(encoding)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        sections: dict[str, list[tuple[str, str]]] = {"Arguments": [], "Options": []}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                usual = "Arguments" if parameter.param_type_name == "argument" else "Options"
                sections.setdefault(getattr(parameter, "rich_help_panel", None) or usual, []).append(record)
        for title, records in sections.items():
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """The example that help ends in, its command bold on a terminal."""
        if self.epilog:
            formatter.write_paragraph()
            with formatter.indentation():
                formatter.write_text(_BOLD.sub(lambda found: typer.style(found[1], bold=True), self.epilog))


class PlainCommand(_Plain, TyperCommand):
    """A verb."""


class PlainGroup(_Plain, TyperGroup):
    """A group of verbs. Newer versions of typer read options through pydantic."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """`VERB --help` goes to the verb at once: to read the group's own options first would import pydantic."""
        *path, last = args or [""]
        command: Any = self
        inner = ctx
        if path and last in ctx.help_option_names:
            for name in path:
                command = getattr(command, "commands", {}).get(name)
                if command is None:
                    break
                inner = type(ctx)(command, info_name=name, parent=inner)
            else:
                typer.echo(command.get_help(inner), color=ctx.color)
                ctx.exit()
        return super().parse_args(ctx, args)  # type: ignore[no-any-return]

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except typer.BadParameter as error:
            from pydantic import BaseModel, ValidationError

            from unnorm.foundation.validation import in_plain_words, sentence

            if isinstance(error.__cause__, ValidationError):
                error.message = sentence(in_plain_words(error.__cause__, BaseModel, None))
            raise

    def format_options(self, ctx: Any, formatter: Any) -> None:
        super().format_options(ctx, formatter)
        verbs = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        with formatter.section("Commands"):
            formatter.write_dl([(name, _summary(verb)) for name, verb in verbs if verb is not None])


class Verbs(typer.Typer):
    """A typer whose verbs are `PlainCommand`s."""

    def __init__(self, *, add_completion: bool = False, **settings: Any) -> None:
        super().__init__(
            cls=PlainGroup,
            no_args_is_help=True,
            add_completion=add_completion,
            pretty_exceptions_enable=False,
            rich_markup_mode=None,
            context_settings=_CONTEXT,  # every verb's too
            **settings,
        )

    def command(self, name: str | None = None, **settings: Any) -> Callable[[Any], Any]:
        return super().command(name, cls=PlainCommand, **settings)


def _summary(verb: Any) -> str:
    """The first paragraph of a verb's help, on one line."""
    return " ".join((verb.help or "").strip().split("\n\n")[0].split())
