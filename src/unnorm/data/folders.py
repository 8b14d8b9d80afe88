"""Which files of a folder or of a zip are data, which of them are of a split, and which are left out and why.

Splits are told by names, as the hub's own convention has them: `data/train-00000-of-00002.parquet`, `test.jsonl`,
`validation/a.json`. A file without the name of a split is for training, unless others say that they are.
"""

import re
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath
from typing import NamedTuple

from unnorm.data.packed_files import PACKED
from unnorm.data.text_rows import TEXT
from unnorm.foundation.errors import DataError
from unnorm.foundation.terminal import plain

READ = (".json", ".jsonl", ".ndjson", ".parquet", ".arrow", ".csv")

_SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
}
_SHARD = re.compile(r"(.+?)-\d{5}-of-\d{5}(?!\d)")
_ABOUT_DATA = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json")
_ABOUT_TEXT = re.compile(r"readme|licen[cs]e|notice|requirements", re.IGNORECASE)
_NAMED = 5


class ChosenFiles(NamedTuple):
    """The files that are read of a folder or a zip, and why others in it are not."""

    where: str
    taken: Sequence[str]
    left_out: dict[str, str]

    def __str__(self) -> str:
        left_out = f"; {_reasons(self.left_out)}" if self.left_out else ""
        return f"{self.where}: reads {_named(self.taken)}{left_out}"


def choose(names: Iterable[str], split: str, where: str, *, packed: bool = False) -> ChosenFiles:
    """Those of `names` (paths within the folder or zip `where`) that are data of `split`, in the order of their names.

    Plain text is data where there is nothing else, for notes often lie beside data. packed: whether it is a zip. One
    that holds a single file, or files without the name of a split, was named for them all. Raises `DataError` if there
    is no data, none of the split, or two files that may well hold the same rows.
    """
    names = sorted(names)
    texts = [name for name in names if PurePosixPath(name).suffix.lower() == TEXT]
    found = [name for name in names if _may_be_data(name, packed)] or texts
    left_out = {name: why for name in found if (why := _no_data(name, found))}
    found = [name for name in found if name not in left_out]
    if not found:
        passed = f" ({_reasons(left_out)})" if left_out else ""
        raise DataError(
            f"{where} holds no data{passed}: no file that ends in {', '.join((*READ, TEXT))}, alone or packed."
        )
    splits = {name: split_of(name) for name in found}
    known = {each for each in splits.values() if each}
    named_whole = packed and (split == "train" or split_of(PurePosixPath(where).name) is not None)
    if named_whole and (not known or len(found) == 1):
        taken = found
    else:
        wanted = _wanted(split, known)
        taken = [name for name in found if splits[name] == wanted]
    if not taken and not known:
        raise DataError(f"{where} has no splits, so there is no split {split!r}. Leave it out.")
    if not taken:
        raise DataError(
            f"{where} has no split {split!r}. By the names of its files it has: {plain(', '.join(sorted(known)))}. "
            "Name one of them (split), or a file."
        )
    _check_twins(taken, where)
    for name in found:
        if name not in taken:
            left_out[name] = f"of the split {splits[name]}" if splits[name] else "not named as of a split"
    return ChosenFiles(where, taken, left_out)


def _may_be_data(name: str, packed: bool) -> bool:
    """Whether the suffixes say so. In a zip, which may hold much else, what is packed must say what it is."""
    suffixes = ["", *(suffix.lower() for suffix in PurePosixPath(name).suffixes)]
    if suffixes[-1] in PACKED:
        return not packed or suffixes[-2] in READ
    return suffixes[-1] in READ


def _wanted(split: str, known: set[str]) -> str | None:
    """Which of the splits that are `known` is meant by `split`; None: what is of no split by its name."""
    wanted = split if split in known else _SPLITS.get(split, split)
    alike = [each for each in known if wanted in _words(each)]  # as auxiliary_train, where there is no other
    if wanted in known or len(alike) > 1:
        return wanted
    return alike[0] if alike else None if wanted == "train" else wanted


def split_of(name: str) -> str | None:
    """The split that the name of a file says it is of; None, if it says nothing."""
    path = PurePosixPath(name)
    stem = _stem(path)
    if (shard := _SHARD.match(stem)) and _words(shard[1]):
        return _SPLITS.get(shard[1].lower(), shard[1])  # as train_sft, beside which there may be a train_gen
    for part in (stem, *reversed(path.parts[:-1])):
        if len(words := _words(part)) == 1:
            return words.pop()
    return None


def _words(text: str) -> set[str]:
    """The splits whose names are words of `text`."""
    return {_SPLITS[word] for word in re.split(r"[^a-z]+", text.lower()) if word in _SPLITS}


def _stem(path: PurePosixPath) -> str:
    """The name without the suffixes that say what is in a file and how it is packed."""
    for suffix in reversed(path.suffixes):
        if suffix.lower() not in (*READ, TEXT, *PACKED):
            break
        path = path.with_suffix("")
    return path.name


def _no_data(name: str, names: Sequence[str]) -> str:
    """Why a file is no data, whatever is in it."""
    path = PurePosixPath(name)
    if any(part.startswith((".", "~$")) or part == "__MACOSX" for part in path.parts):
        return "hidden"
    if path.name in _ABOUT_DATA or (path.suffix.lower() == TEXT and _ABOUT_TEXT.match(path.name)):
        return "about the data"
    if path.suffix == ".arrow" and path.name.startswith("cache-"):
        return "a cache of datasets"
    for ending in (".report.jsonl", ".rejected.jsonl"):
        if name.endswith(ending) and name.removesuffix(ending) in names:
            return "written by a repair"
    return ""


def _check_twins(names: Sequence[str], where: str) -> None:
    """Refuse `a.jsonl` beside `a.jsonl.gz` or `a.parquet`: rows that are trained on twice."""
    seen: dict[PurePosixPath, str] = {}
    for name in names:
        path = PurePosixPath(name)
        other = seen.setdefault(path.with_name(_stem(path)), name)
        if other != name:
            raise DataError(
                f"{where} holds {plain(other)} and {plain(name)}, which may be the same rows twice. "
                "Name one of them, or move one away."
            )


def _reasons(left_out: dict[str, str]) -> str:
    reasons = dict.fromkeys(left_out.values())
    named = {reason: [name for name, why in left_out.items() if why == reason] for reason in reasons}
    return "; ".join(f"left out, {reason}: {_named(names)}" for reason, names in named.items())


def _named(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED:,} more" if len(names) > _NAMED else ""
    return plain(", ".join(names[:_NAMED])) + more
