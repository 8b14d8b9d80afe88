"""`alpaca`: a row with an instruction, perhaps material for it, and the answer."""

from unnorm.data.conversation import Conversation, Message
from unnorm.data.formats.form import Format, Row, earlier_turns, has, has_texts, system_field, text_in, text_or_none


def _convert(row: Row, source: str, number: int) -> Conversation | str:
    instruction, given, output = text_in(row, "instruction"), text_or_none(row, "input"), text_in(row, "output")
    if not instruction.strip():
        return "empty instruction"
    if not output.strip():
        return "empty output"
    turns = (Message("user", instruction, given), Message("assistant", output))
    return Conversation(earlier_turns(row) + turns, source, number)


ALPACA = Format(
    name="alpaca",
    label="Alpaca",
    fields="`instruction`, `output`, perhaps `input`",
    has=has("instruction", "output"),
    fits=has_texts("instruction", "output"),
    convert=_convert,
    columns=lambda row: {"instruction", "input", "output", "history", system_field(row)},
)
