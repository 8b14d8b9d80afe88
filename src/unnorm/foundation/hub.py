"""Names on the hub: what they are pinned to, and a download that shows.

A name is `owner/name` (the oldest models have a `name` alone) and may end in `@revision`: a branch, a tag or a commit.
What to say where one cannot be had is `hub_errors`'.
"""

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Literal, NamedTuple

from unnorm.foundation.errors import SettingsError
from unnorm.foundation.progress import Bar

RepoType = Literal["model", "dataset"]

_REPOSITORY = r"[A-Za-z0-9][A-Za-z0-9_.-]*(?:/[A-Za-z0-9_.-]+)?"
_PINNED = re.compile(rf"({_REPOSITORY})@([A-Za-z0-9_./-]+)")
_ALWAYS_THERE = {"model": "config.json", "dataset": "README.md"}
"""A small file of nearly every repository. Asking for it tells the commit, and whether one may read what is there."""


class Name(NamedTuple):
    """A repository on the hub, or a folder; and the revision that was asked for, if one was."""

    repository: str
    revision: str | None = None


def parse(name: str) -> Name:
    """`owner/name@revision` in its parts. What has not that form is handed back whole, without a revision."""
    found = _PINNED.fullmatch(name)
    return Name(found[1], found[2]) if found and not Path(name).exists() else Name(name)


def is_name(name: str) -> bool:
    """Whether `name` can be one on the hub, with a revision or without."""
    return re.fullmatch(_REPOSITORY, parse(name).repository) is not None


def pinned(name: str, kind: RepoType = "model") -> Name:
    """The repository of `name` and the commit at which its revision (without one: the default branch) stands.

    Asked once: a name means one commit for as long as the process lives, so that all files of it belong together. A
    hub that is out of reach is made up for by what the cache holds. Raises what the hub's client raises.
    """
    repository, revision = parse(name)
    return Name(repository, _commit(repository, revision, kind))


@cache
def _commit(repository: str, revision: str | None, kind: RepoType) -> str:
    from huggingface_hub import HfApi, hf_hub_download
    from huggingface_hub.errors import LocalEntryNotFoundError, RemoteEntryNotFoundError, RevisionResolutionError

    _check_token()
    try:
        path = hf_hub_download(repository, _ALWAYS_THERE[kind], repo_type=kind, revision=revision)
    except RemoteEntryNotFoundError as error:  # no such file, but the answer says of which commit
        if "X-Repo-Commit" not in error.response.headers:
            raise
        return str(error.response.headers["X-Repo-Commit"])
    except LocalEntryNotFoundError as error:  # out of reach, and no such file in the cache, which may know the commit
        try:
            known = HfApi().resolve_revision(repository, repo_type=kind, revision=revision, local_files_only=True)
        except RevisionResolutionError:
            raise error from None
        return known.resolved
    return Path(path).parent.name


def _check_token() -> None:
    """Refuse a token that no request can carry: the error of the library that notices would quote it."""
    from huggingface_hub import get_token

    token = get_token()
    if token and not (token.isascii() and token.isprintable() and " " not in token):
        raise SettingsError(
            "the token for the hub (HF_TOKEN, or what `hf auth login` saved) holds characters that no token has. "
            "Copy it again."
        )


@contextmanager
def download_shown(repository: str, kind: RepoType = "model") -> Iterator[None]:
    """While open, a download shows what has arrived in the cache."""
    blobs = _blobs(repository, kind)
    stop = threading.Event()
    thread = threading.Thread(target=_watch, args=(repository, blobs, _megabytes(blobs), stop), daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _watch(repository: str, blobs: Path, at_start: int, stop: threading.Event) -> None:
    with Bar(f"downloading {repository}", None) as bar:
        while not stop.wait(1.0):
            arrived = _megabytes(blobs) - at_start
            if arrived > bar.done:
                bar.advance(arrived - bar.done, "MB")


def _blobs(repository: str, kind: RepoType) -> Path:
    """Where the hub's client puts the files of a repository, those on their way included."""
    from huggingface_hub.constants import HF_HUB_CACHE

    return Path(HF_HUB_CACHE) / "--".join([f"{kind}s", *repository.split("/")]) / "blobs"


def _megabytes(folder: Path) -> int:
    size = 0
    for file in folder.glob("*"):
        try:
            size += file.stat().st_size
        except OSError:  # renamed or removed since it was listed
            continue
    return size // 10**6
