"""The audit: two arms that are compared differ in the arm, and in nothing else that was configured or done.

A learning rate that the study's own search found for both arms is no difference: they had the same search. It is noted,
and shown. A rate that the file sets is held against an arm, also where the search found rates for another strategy.
Noted too are the tokens that a recovered start learnt from: they belong to the arm, and the other had none.
"""

from collections import Counter
from collections.abc import Callable, Container, Iterable, Mapping, Sequence, Set
from pathlib import Path
from typing import Any

from unnorm.foundation.hashing import hash_json
from unnorm.foundation.precision import DTYPES
from unnorm.study.ledger import result_of, settings_of
from unnorm.study.slices import Place, Slot, reference_of
from unnorm.study.start_words import read_recovery, start_asked_for, start_in_words

_DONE_ALIKE = ("steps", "train_tokens", "eval_tokens", "rows_per_forward", "environment")
_TUNED = "training.learning_rate"
_THREADS, _LOAD = "environment.threads", "environment.load"
LOADS_ALIKE = 0.1  # of all cores' time
_OF_THE_ARM = ("arm.", "start.")
_NAMES = ("model.name", "data.name")
"""What base and data are called beside their hashes, which tell whether they are the same."""
_NOTHING = "0"

Facts = Mapping[str, Any]
"""What is known of a cell, flat: dotted key -> value."""


def audit_plan(
    resolved: Mapping[Place, Facts],
    arms: list[str],
    *,
    folders: Mapping[Place, Path] | None = None,
    tuned: Set[Slot] = frozenset(),
) -> dict[str, Any]:
    """Compare what is configured, before anything ran. resolved: each cell's configuration, as its hash is made of;
    folders: where the cells will be, if their ledger is to be asked what machines of another precision did there;
    tuned: what the search chose a rate for."""
    found = _audit(arms, resolved.keys(), lambda place: flat(resolved[place]), tuned)
    return {
        **found,
        "elsewhere": elsewhere({place: (resolved[place], path) for place, path in (folders or {}).items()}),
    }


def audit_results(folders: Mapping[Place, Path], arms: list[str], *, tuned: Set[Slot] = frozenset()) -> dict[str, Any]:
    """Compare what was configured and done. folders: those of the cells that are done; tuned: as above.

    Returns `matched` (None where nothing could be compared); `comparisons`: every arm against the reference
    (`original`, else the first), with what differs, what is noted, and why speeds do not compare; and `elsewhere`: the
    same cells in another precision, which a machine made on which `auto` means another one.
    """
    configured = {place: (settings_of(path), path) for place, path in folders.items()}
    found = _audit(arms, folders.keys(), lambda place: _with_what_was_done(*configured[place]), tuned)
    return {**found, "elsewhere": elsewhere(configured)}


def elsewhere(cells: Mapping[Place, tuple[Facts, Path]]) -> list[dict[str, Any]]:
    """Those of `cells` (configuration, folder) that are in the ledger in another precision too."""
    found = []
    for place, (resolved, folder) in cells.items():
        training = resolved.get("training", {})
        for other in DTYPES:
            cell = hash_json({**resolved, "training": {**training, "precision": other}})
            sibling = folder.with_name(folder.name.replace(hash_json(resolved), cell))
            if other != training.get("precision") and sibling != folder and (sibling / "cell.json").is_file():
                found.append({**place._asdict(), "precision": training["precision"], "also": other})
    return found


def elsewhere_in_words(elsewhere: Sequence[Mapping[str, Any]]) -> list[str]:
    """What was run in another precision than it is here, as lines for people."""
    lines = []
    for here, there in dict.fromkeys((entry["precision"], entry["also"]) for entry in elsewhere):
        count = sum((entry["precision"], entry["also"]) == (here, there) for entry in elsewhere)
        lines.append(
            f"{count} of these cells {'is' if count == 1 else 'are'} in this ledger in {there} too, and not compared "
            f"with those in {here}: where they were run, precision auto means {there}, or the file asked for it. "
            f"With precision: {there} in the study file the study goes on with them."
        )
    return lines


def facts_of(folder: Path) -> Facts:
    """What was configured and done in a cell that is done."""
    return _with_what_was_done(settings_of(folder), folder)


def _with_what_was_done(settings: Facts, folder: Path) -> Facts:
    result = result_of(folder)
    done = {key: result[key] for key in _DONE_ALIKE if key in result}
    recovery = read_recovery(folder)
    if recovery is not None:
        done["start"] = {"words": start_in_words(recovery)}
    return flat(settings) | flat(done)


def differences(one: Facts, other: Facts, *, tuned: bool = False) -> tuple[list[str], list[str]]:
    """(what differs between two cells beside the arm, what differs as it should), as lines of text. tuned: whether the
    search chose the learning rates of both."""
    found = [
        (key, f"{key}: {one.get(key, 'not known')!r} against {other.get(key, 'not known')!r}")
        for key in sorted(one.keys() | other.keys())
        if not key.startswith(_OF_THE_ARM) and key not in (_LOAD, *_NAMES) and one.get(key) != other.get(key)
    ]
    noted = [line for key, line in found if tuned and key == _TUNED]
    differ = [line for _, line in found if line not in noted]
    before = [_before_training(facts) for facts in (one, other)]
    if before != [_NOTHING, _NOTHING]:
        noted.append(f"tokens before training: {' against '.join(before)}")
    return differ, noted


def _before_training(facts: Facts) -> str:
    """What a cell learnt from before its training: as it was done, else as it is asked for."""
    if "start.words" in facts:
        return str(facts["start.words"])
    if "start.key" not in facts:
        return _NOTHING
    of_arm = "arm.recover."
    wanted = {key.removeprefix(of_arm): value for key, value in facts.items() if key.startswith(of_arm)}
    return start_asked_for(facts["start.data"], wanted)


def speed_differences(one: Facts, other: Facts) -> list[str]:
    """Why the speeds of two cells do not compare, as lines of text: they ran on other hardware or threads, or beside
    other load. Load makes no other difference."""
    lines = [
        f"{key}: {one.get(key, 'not known')!r} against {other.get(key, 'not known')!r}"
        for key in ("environment.hardware", _THREADS)
        if one.get(key) != other.get(key)
    ]
    loads = one.get(_LOAD), other.get(_LOAD)
    if loads == (None, None):
        return lines
    if None in loads or abs(loads[0] - loads[1]) > LOADS_ALIKE:  # type: ignore[operator]
        said = ["not known" if load is None else f"{load:.0%}" for load in loads]
        lines.append(f"other processes took {said[0]} of the machine against {said[1]}")
    return lines


def matched_at(audit: Mapping[str, Any], places: Container[Place]) -> bool | None:
    """Whether an audit found all comparisons of the arms at `places` matched; None where it has none of them."""
    found = [c["matched"] for c in audit["comparisons"] if Place.of(c) in places]
    return all(found) if found else None


def noted_in_words(audit: Mapping[str, Any]) -> list[str]:
    """What an audit noted and does not hold against an arm, each once, as lines for people."""
    counts = Counter((c["arm"], c["against"], line) for c in audit["comparisons"] for line in c.get("noted", ()))
    return [
        f"{arm} against {against}: {line} ({count} comparison{'s' * (count > 1)})"
        for (arm, against, line), count in counts.items()
    ]


def doubt_of(matched: bool | None, complete: bool) -> str:
    """Why a comparison is no result to conclude from, in words; empty where it is one."""
    return ", ".join(["not matched"] * (matched is False) + ["incomplete"] * (not complete))


def flat(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, with dotted keys."""
    found: dict[str, Any] = {}
    for key, value in content.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[prefix + key] = value
    return found


def _audit(
    arms: list[str], places: Iterable[Place], facts: Callable[[Place], Facts], tuned: Set[Slot]
) -> dict[str, Any]:
    reference = reference_of(arms)
    known = {place: facts(place) for place in places}
    comparisons = []
    for place, mine in known.items():
        against = place._replace(arm=reference)
        if place.arm == reference or against not in known:
            continue
        differ, noted = differences(mine, known[against], tuned={place.slot, against.slot} <= tuned)
        named = {**place._asdict(), "against": reference}
        speed = speed_differences(mine, known[against])
        found = {"matched": not differ, "differences": differ, "noted": noted, "speed": speed}
        comparisons.append({**named, **found})
    return {"matched": all(c["matched"] for c in comparisons) if comparisons else None, "comparisons": comparisons}
