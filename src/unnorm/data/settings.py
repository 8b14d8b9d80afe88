"""All that can be said about a data set and its encoding: one model for study files, the command line and docs."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from unnorm.data.chat_template import DATE
from unnorm.data.columns import Columns
from unnorm.data.formats import FormatName
from unnorm.data.policies import Policies
from unnorm.data.split import VALIDATION_SHARE
from unnorm.data.templates import TEMPLATE_HELP

Role = Literal["system", "user", "assistant", "tool"]
LossOn = Literal["answer", "last", "all"] | tuple[Role, ...]
TooLong = Literal["drop", "keep-start", "keep-end", "split"]


_TEMPLATE = (
    f"{TEMPLATE_HELP}; chat@2025-01-31 names the date that a template is told which asks for today's "
    f"(default: {DATE.isoformat()})"
)


class Dataset(BaseModel):
    """A data set, as a study file names it: where it is, what is done about its oddities, how it becomes text."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    source: str = Field(description="a known name, a file, a folder, - for stdin, or a hub id")
    name: str | None = Field(default=None, description="what results call it; default: the source's own name")
    path: str | None = Field(default=None, description="a local file or folder for a known name")
    subset: str | None = Field(default=None, description="of a hub data set: its configuration")
    split: str = Field(default="train", description="of a hub data set or a folder")
    streaming: bool = Field(default=False, description="from the hub: fetch only what is used, keep nothing on disk")
    repair: bool = Field(
        default=False,
        description="damaged JSON: read what can be saved, as unnorm data repair would, and say what is lost",
    )
    map: Columns = Field(
        default=(),
        description="fields of the format and your columns that hold them: {instruction: prompt, output: answer}",
    )
    format: FormatName | None = Field(default=None, description="what the rows are; default: recognised and said")
    rows: int | None = Field(default=None, gt=0, description="use this many rows at most, from the start of the source")
    held_out: float = Field(
        default=VALIDATION_SHARE,
        gt=0,
        lt=1,
        description="share of the conversations, chosen by what they ask, that is never trained on but evaluated on",
    )
    policies: Policies = Field(default=Policies(), description="what is done about oddities")
    template: str = Field(default="alpaca", description=_TEMPLATE)
    loss_on: LossOn = Field(
        default="answer",
        description="answer: all answers and their eos; last: the last one; all: prompts too; or a list of roles",
    )
    too_long: TooLong = Field(
        default="drop",
        description="more than max_length tokens: drop the conversation, keep its start or end, or split it by rounds; "
        "split cuts a text without turns to pieces",
    )


class DataSettings(Dataset):
    """A data set and how it is encoded."""

    max_length: int = Field(default=256, gt=1, description="tokens a row, and the most a conversation may have")
    for_search: bool = Field(
        default=False, description="split the training part once more: what is chosen on it never saw the held-out part"
    )

    def encoding(self, template: str) -> dict[str, Any]:
        """What shapes the encoded rows beside the conversations, as plain values. template: its identity.

        What was read, and under which policies, shows in the conversations' own hash. A setting that is newer than a
        hash of these values stands in it only where it is not at its default, so that older hashes stay.
        """
        newer: dict[str, Any] = {"too_long": self.too_long} if self.too_long != "drop" else {}
        newer |= {"held_out": self.held_out} if self.held_out != VALIDATION_SHARE else {}
        newer |= {"for_search": True} if self.for_search else {}
        loss_on = self.loss_on if isinstance(self.loss_on, str) else list(self.loss_on)
        return {"template": template, "max_length": self.max_length, "loss_on": loss_on, **newer}
