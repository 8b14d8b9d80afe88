"""The root of the verbs: what typer says about a value in pydantic's words, it says in ours."""

from typing import Any

import typer
from typer.core import TyperGroup


class PlainGroup(TyperGroup):
    """Newer versions of typer read options through pydantic."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except typer.BadParameter as error:
            from pydantic import BaseModel, ValidationError

            from unnorm.foundation.validation import in_plain_words, sentence

            if isinstance(error.__cause__, ValidationError):
                error.message = sentence(in_plain_words(error.__cause__, BaseModel, None))
            raise
