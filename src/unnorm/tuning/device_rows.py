"""The rows of a training run that is spread over several processes: together they have those that one would have."""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from unnorm.foundation import ranks
from unnorm.foundation.errors import SettingsError

IDLE = "idle"
"""In a batch that only keeps its process in step with the others: its rows are another's, and count for nothing."""
Batch = dict[str, torch.Tensor]


class DeviceRows(torch.utils.data.Dataset[tuple[Sequence[Any], bool]]):
    """This process's rows of each forward, in order, and whether they count.

    rows_per_forward: of all processes together, a multiple of their number. The last forward may have fewer rows.
    """

    def __init__(self, rows: Sequence[Any], rows_per_forward: int) -> None:
        check_shares(rows_per_forward)
        self.rows, self.forward, self.own = rows, rows_per_forward, rows_per_forward // ranks.count()

    def __len__(self) -> int:
        return -(-len(self.rows) // self.forward)

    def __getitem__(self, number: int) -> tuple[Sequence[Any], bool]:
        first = number * self.forward
        whole = self.rows[first : first + self.forward]
        if not whole:
            raise IndexError(number)
        own = whole[ranks.number() * self.own : (ranks.number() + 1) * self.own]
        return own or whole[:1], bool(own)


def check_shares(rows: int, devices: int | None = None) -> None:
    """A `SettingsError` where the rows of a step or of a forward cannot be shared equally by so many devices; by those
    of this launch, unless given."""
    devices = devices or ranks.count()
    if rows % devices:
        raise SettingsError(
            f"{rows} rows a step or a forward cannot be shared by {devices} devices. Choose batch_tokens / max_length, "
            "and rows a forward, as multiples of the number of devices."
        )


def one_batch(collate: Callable[[Sequence[Any]], Batch]) -> Callable[[Sequence[tuple[Sequence[Any], bool]]], Batch]:
    """What makes a batch of one item of `DeviceRows`."""

    def made(items: Sequence[tuple[Sequence[Any], bool]]) -> Batch:
        [(rows, counts)] = items
        return collate(rows) if counts else {**collate(rows), IDLE: torch.ones(())}

    return made
