"""Rows of data sets on the hub, through `datasets`: whole, or streamed as they are asked for."""

import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

from unnorm.foundation.errors import DataError


class HubSet(NamedTuple):
    """A data set on the hub. subset: its configuration; files: only these of it."""

    name: str
    subset: str | None = None
    split: str = "train"
    files: str | None = None


def rows_of(wanted: HubSet, *, streaming: bool = False) -> Iterator[Any]:
    """The rows of a split, in order. Code that comes with a data set is never run. Raises `DataError`.

    streaming: nothing is kept on disk, and what is not asked for is not fetched.
    """
    import datasets

    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    try:
        yield from datasets.load_dataset(
            wanted.name, wanted.subset, split=wanted.split, data_files=wanted.files, streaming=streaming
        )
    except Exception as error:  # the hub, the network and the data's own form each raise their own kinds
        line = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise DataError(
            f"cannot load {wanted.name!r} (split {wanted.split!r}) from the hub: {line} "
            "If this machine is offline, give a file instead."
        ) from error
