"""`text`: a row of plain text, all of which is trained."""

from unnorm.data.conversation import Conversation, Message
from unnorm.data.formats.form import Format, Row, has, text_in


def _convert(row: Row, source: str, number: int) -> Conversation | str:
    text = text_in(row, "text")
    return Conversation((Message("text", text),), source, number) if text.strip() else "empty text"


TEXT = Format(
    name="text",
    label="text",
    fields="`text`",
    has=has("text"),
    fits=lambda row: isinstance(row.get("text"), str),
    convert=_convert,
    columns=lambda row: {"text"},
)
