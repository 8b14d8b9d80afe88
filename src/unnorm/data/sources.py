"""Read a source (a known name, a file, a folder, stdin, a hub id) into conversations; count what became of each row.

Untrusted text in, plain values out.
"""

import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any

from unnorm.data import files, hub
from unnorm.data.columns import renamed
from unnorm.data.conversation import Conversation
from unnorm.data.folders import READ, ChosenFiles
from unnorm.data.formats import FORMATS, convert, left_out, recognise
from unnorm.data.formats.form import Format
from unnorm.data.known import KNOWN, HubSet, Mix
from unnorm.data.packed_files import PACKED
from unnorm.data.policies import Policies, holds_html, tidy
from unnorm.data.repair.damage import Account
from unnorm.data.settings import DataSettings
from unnorm.data.split import shuffled
from unnorm.foundation.errors import DataError, SettingsError
from unnorm.foundation.hub import parse
from unnorm.foundation.progress import Bar
from unnorm.foundation.terminal import shorten

_SAMPLE = 100  # rows by which a format is recognised, and after which progress is shown


@dataclass
class Reading:
    """What a source was understood to be, and what became of its rows.

    rows: read. dropped: rows, by reason. changed: conversations, by what was changed in them. noted: conversations that
    were left as they are, by what is odd about them. ignored: columns that nothing was taken from. files: which were
    read, where a folder or zip was named. repaired: files whose JSON was repaired, and what became of their bytes.
    """

    name: str
    conversations: list[Conversation] = field(default_factory=list)
    formats: dict[str, str] = field(default_factory=dict)
    rows: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    changed: Counter[str] = field(default_factory=Counter)
    noted: Counter[str] = field(default_factory=Counter)
    ignored: tuple[str, ...] = ()
    files: list[ChosenFiles] = field(default_factory=list)
    repaired: dict[str, Account] = field(default_factory=dict)


def read(settings: DataSettings, *, quiet: bool = False) -> Reading:
    """The conversations of a source. Raises `DataError` if it cannot be read, or if not one row can be used.

    Which files of a folder are read, and what a repair saved and lost, is said on stderr, unless `quiet`.
    """
    known = KNOWN.get(settings.source)
    mix = known if isinstance(known, Mix) else None
    local = settings.path is not None or (mix is None and files.is_file_name(settings.source))
    _check(settings, local, mixed=mix is not None)
    chosen: list[ChosenFiles] = []
    accounts: dict[str, Account] = {}
    repaired = accounts.__setitem__ if settings.repair else None

    def note(files_read: ChosenFiles) -> None:
        chosen.append(files_read)
        if not quiet:
            print(files_read, file=sys.stderr, flush=True)

    if mix is not None:
        reading = _read_mix(mix, settings, quiet, note, repaired)
    else:
        name, rows = _rows_of(settings, local, note, repaired)
        rows = renamed(rows, settings.map, name) if settings.map else rows
        reading = conversations_of(
            rows, name, policies=settings.policies, form=settings.format, limit=settings.rows, quiet=quiet
        )
    if settings.repair and not accounts and len(reading.conversations) != settings.rows:  # else JSON may come later
        raise SettingsError(f"repair: {reading.name} holds no JSON, so there is nothing to repair. Leave it out.")
    reading.files, reading.repaired = chosen, accounts
    for file, account in accounts.items():
        reading.changed += Counter({"damaged JSON mended": account.mended_records})  # which leaves out a 0
        reading.dropped += Counter({"damaged JSON rejected": account.rejected})
        if not quiet:
            print(f"{file}: {account.describe()}", file=sys.stderr, flush=True)
    return reading


def check_source(source: str) -> None:
    """Raise `DataError` for what can be no data: a file that is not there, or a word that is no known name. Whether a
    hub has an id is not asked."""
    if source in KNOWN or source == files.STDIN:
        return
    if files.is_file_name(source):
        files.check_there(source)
    elif "/" not in parse(source)[0] and parse(source)[0] not in KNOWN:
        raise DataError(f"{source!r} is neither a known name nor a file. {files.choices()}")


def _rows_of(
    settings: DataSettings,
    local: bool,
    note: Callable[[ChosenFiles], None],
    repaired: Callable[[str, Account], None] | None,
) -> tuple[str, Iterator[Any]]:
    """What a source that is no mix is called, and its rows."""
    source = settings.source
    if local:
        place = str(settings.path or source)
        return "stdin" if place == files.STDIN else place, files.rows_of(place, settings.split, note, repaired)
    check_source(source)
    repository, revision = parse(source)
    known = KNOWN.get(repository)
    wanted = known if isinstance(known, HubSet) else HubSet(repository)
    if repaired is not None and (wanted.files is None or settings.streaming):
        raise SettingsError(
            f"repair: of no effect on {source} as it comes from the hub. "
            "Download its files and name them, or leave it out."
        )
    wanted = wanted._replace(subset=settings.subset, split=settings.split, revision=revision)
    return source, hub.rows_of(wanted, streaming=settings.streaming, repaired=repaired)


def conversations_of(
    rows: Iterable[Any],
    name: str,
    *,
    policies: Policies | None = None,
    form: str | None = None,
    limit: int | None = None,
    quiet: bool = True,
) -> Reading:
    """Rows of any known format as conversations. `name`: of the source, for messages; `limit`: as many at most."""
    policies = policies or Policies()
    reading = Reading(name)
    with Bar(f"reading {Path(name).name}", None, quiet=quiet) as bar:
        known, rows = _recognised(rows, name, form, reading)
        found = _converted(known, rows, name, reading, bar)
        if known.join:  # all rows are read before the first is given away
            joined = known.join(list(found), policies.continuations)
            reading.changed += joined.changed
            reading.dropped += joined.dropped
            reading.noted += joined.noted
            found = iter(joined.conversations)
        reading.conversations = list(islice(_tidied(found, policies, reading), limit))
    if not reading.conversations:
        reasons = ", ".join(f"{count} × {reason}" for reason, count in reading.dropped.items())
        raise DataError(
            f"no row of {name} can be used as {known.name} ({reasons}). Rows of this format have {known.fields}."
        )
    return reading


def _check(settings: DataSettings, local: bool, *, mixed: bool) -> None:
    """Refuse settings that would be passed over: a `SettingsError`."""
    idle = []
    if local:
        idle = [name for name in ("subset", "streaming") if getattr(settings, name)]
    elif mixed and settings.repair:
        idle = ["repair"]
    if mixed:
        idle += [name for name in ("subset", "format", "map") if getattr(settings, name) and name not in idle]
        idle += ["split"] * (settings.split != "train")
    if idle:
        what = "files on this machine" if local else f"the mix {settings.source}"
        raise SettingsError(f"{', '.join(idle)}: of no effect on {what}. Leave it out.")


def _recognised(rows: Iterable[Any], name: str, form: str | None, reading: Reading) -> tuple[Format, Iterator[Any]]:
    rows = iter(rows)
    first = list(islice(rows, _SAMPLE))
    if not first:
        raise DataError(f"{name} holds no rows.")
    _check_rows(first, name)
    known = next((f for f in FORMATS if f.name == form), None) or recognise(first, name)
    reading.formats[name] = known.name
    reading.ignored += left_out(known, first)
    return known, chain(first, rows)


def _check_rows(rows: list[Any], name: str) -> None:
    """Say what rows are that are all lists, and so of no format."""
    if not all(isinstance(row, list) for row in rows):
        return
    items: list[Any] = next((row for row in rows if row), [])
    keys = sorted({str(key) for item in items if isinstance(item, Mapping) for key in item})
    if not keys:
        held = f"lists of {type(items[0]).__name__}" if items else "empty lists"
        advice = 'Make each an object, as in {"prompt": ..., "response": ...}.'
    else:
        held = f"lists of objects with {shorten(', '.join(keys), 100)}"
        advice = 'If each list is a conversation, put it under a key: {"conversations": [...]}.'
        if len(rows) == 1:
            advice += " If it is a list of all rows, save it as .json."
    raise DataError(f"the rows of {name} are {held}, and a row is an object. {advice}")


def _converted(known: Format, rows: Iterable[Any], name: str, reading: Reading, bar: Bar) -> Iterator[Conversation]:
    for number, row in enumerate(rows):
        reading.rows += 1
        conversation = convert(known, row, name, number)
        if isinstance(conversation, str):
            reading.dropped[conversation] += 1
        else:
            yield conversation
        if reading.rows % _SAMPLE == 0:
            bar.advance(_SAMPLE)


def _tidied(found: Iterable[Conversation], policies: Policies, reading: Reading) -> Iterator[Conversation]:
    for conversation in found:
        tidied = tidy(conversation, policies)
        if isinstance(tidied, str):
            reading.dropped[tidied] += 1
            continue
        reading.changed.update(tidied.changes[len(conversation.changes) :])
        if any(holds_html(message.content) for message in tidied.messages):
            reading.noted["holds HTML as text or code, left as it is"] += 1
        yield tidied


def _read_mix(
    mix: Mix,
    settings: DataSettings,
    quiet: bool,
    note: Callable[[ChosenFiles], None],
    repaired: Callable[[str, Account], None] | None,
) -> Reading:
    """A mix, from the hub or from a folder that holds its parts."""
    reading = Reading(settings.source)
    for part, of_mix in mix.parts.items():
        if settings.path is not None:
            place = _part_file(Path(settings.path).expanduser(), part, settings.source, mix)
            rows = files.rows_of(place, chosen=note, repaired=repaired)
        else:
            rows = hub.rows_of(of_mix.where, streaming=settings.streaming)
        name = f"{settings.source}/{part}"
        with Bar(f"reading {name}", None, quiet=quiet) as bar:
            known, rows = _recognised(rows, name, of_mix.format, reading)
            found = _tidied(_converted(known, rows, name, reading, bar), settings.policies, reading)
            taken = of_mix.take(found, reading.dropped)
        if not taken:
            raise DataError(f"no row of {name} can be used; dropped so far: {dict(reading.dropped)}.")
        reading.conversations += taken
    reading.conversations = shuffled(reading.conversations, mix.seed)[: settings.rows]
    return reading


def _part_file(folder: Path, part: str, name: str, mix: Mix) -> str:
    """The file or folder of a part in a local copy: the one whose name begins with the part's. Raises `DataError`."""
    found = sorted(folder.glob(f"{part}*")) if folder.is_dir() else []
    if len(found) != 1:
        raise DataError(
            f"{folder} must hold the parts of {name}, one file or folder each, named {', '.join(mix.parts)} "
            f"(and {', '.join(READ)}, perhaps {', '.join(PACKED)}); of {part!r} there are {len(found)}."
        )
    return str(found[0])


def counts_in_words(counts: Mapping[str, int]) -> str:
    """`12 empty output, 3 no answer`; `none` if there is nothing to count."""
    return ", ".join(f"{count:,} {reason}" for reason, count in counts.items() if count) or "none"
