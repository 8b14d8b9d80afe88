"""Rows of data sets on the hub, through `datasets`: whole, or streamed as they are asked for."""

import sys
from collections.abc import Callable, Iterator
from typing import Any

from unnorm.data import files
from unnorm.data.known import HubSet
from unnorm.data.repair.damage import Account
from unnorm.foundation import hub
from unnorm.foundation.errors import DataError
from unnorm.foundation.hub_errors import explain


def rows_of(
    wanted: HubSet, *, streaming: bool = False, repaired: Callable[[str, Account], None] | None = None
) -> Iterator[Any]:
    """The rows of a split, in order. Code that comes with a data set is never run. Raises `DataError`.

    streaming: nothing is kept on disk, and what is not asked for is not fetched. repaired: as of `files.rows_of`, for a
    set of which one file is read.
    """
    from huggingface_hub import is_offline_mode

    full = f"{wanted.name}@{wanted.revision}" if wanted.revision else wanted.name
    streaming = streaming and not is_offline_mode()  # what is in the cache is read from there
    try:
        with hub.download_shown(wanted.name, "dataset"):
            commit = _commit(full)
            rows = (
                _file(wanted, commit, repaired)
                if wanted.files and not streaming
                else _loaded(wanted, commit, streaming)
            )
        yield from rows
    except Exception as error:  # the hub, the network and the data's own form each raise their own kinds
        raise DataError(
            f"cannot load {full!r} (split {wanted.split!r}) from the hub: {explain(error, full, 'dataset')}"
        ) from error


def _file(wanted: HubSet, commit: str | None, repaired: Callable[[str, Account], None] | None) -> Iterator[Any]:
    """The rows of one file, from the hub's cache: what `datasets` makes of a file by name it does not find offline."""
    from huggingface_hub import hf_hub_download

    assert wanted.files is not None
    path = hf_hub_download(wanted.name, wanted.files, repo_type="dataset", revision=commit)
    return files.rows_of(path, wanted.split, repaired=repaired)


def _loaded(wanted: HubSet, commit: str | None, streaming: bool) -> Any:
    import datasets
    from huggingface_hub import is_offline_mode

    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    options = {"split": wanted.split, "data_files": wanted.files, "streaming": streaming, "revision": commit}
    rows = datasets.load_dataset(wanted.name, wanted.subset, **options)
    if is_offline_mode() and wanted.revision and not any(str(commit) in f["filename"] for f in rows.cache_files):
        # offline, `datasets` takes the newest of what it made, whatever revision is asked for
        raise DataError("HF_HUB_OFFLINE is set, and the cache holds another revision of it. Unset it to download.")
    return rows


def _commit(name: str) -> str | None:
    """The commit that `name` stands at. None where only what `datasets` made of it earlier may be left."""
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return hub.pinned(name, "dataset").revision
    except LocalEntryNotFoundError:
        if hub.parse(name).revision is not None:
            raise
        return None
