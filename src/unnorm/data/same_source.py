"""Whether two names mean the same data: what is held out of a data set must be so under each of its names."""

from pathlib import Path

from unnorm.data.files import STDIN, is_file_name
from unnorm.data.known import KNOWN, Mix
from unnorm.data.settings import Dataset
from unnorm.foundation.hub import parse


def is_of(source: str, dataset: Dataset) -> bool:
    """Whether `source` is read from where `dataset` is: one file under two paths, or a folder and a file in it; one hub
    data set with its short name, in another revision, or in a mix; or the name that the data set was given.

    Asks neither the hub nor what the files hold: a copy is another source.
    """
    places = _places(dataset.source)
    if dataset.path is not None:
        places |= {_file(dataset.path)}
    return source == dataset.name or any(
        Path(one).is_relative_to(other) or Path(other).is_relative_to(one)
        for one in _places(source)
        for other in places
    )


def _places(source: str) -> set[str]:
    """Where `sources.read` takes the rows from."""
    known = KNOWN.get(source)
    if isinstance(known, Mix):
        return {source, *(part.where.name for part in known.parts.values())}
    if is_file_name(source):
        return {_file(source)}
    repository = parse(source).repository
    known = KNOWN.get(repository)
    return {repository} if known is None or isinstance(known, Mix) else {known.name}


def _file(path: str) -> str:
    return path if path == STDIN else str(Path(path).expanduser().resolve())
