"""The study's answer in one sentence, no stronger than its evidence: the page leads with it.

An arm is "within" the margin only by the equivalence test, "behind" or "ahead" only where the 95 % interval excludes
that there is no difference; else it "shows no difference". Without an interval it is "above" or "below". What is in
doubt is left out, and said to be.
"""

from collections.abc import Iterator, Sequence
from math import prod
from typing import NamedTuple

from unnorm.report.pairs import compared, others
from unnorm.report.verdicts import margin_in_words
from unnorm.report.wording import count_of, listed, share
from unnorm.study.compare import Row
from unnorm.study.view import StudyView

_ORDER = ("within", "same", "ahead", "below", "open", "above", "behind")
_ONE_WAY = ("ahead", "below", "above", "behind")
_MOST = 4  # clauses; what is merely behind is said together then
_NUMBERS = ("no", "one", "both", "all three", "all four", "all five", "all six")


class _Clause(NamedTuple):
    """What several arms have in common. found: kind -> its comparisons, best kind first."""

    arms: list[str]
    found: dict[str, list[Row]]

    @property
    def kind(self) -> str:
        """The only one, or `mixed`."""
        return next(iter(self.found)) if len(self.found) == 1 else "mixed"

    @property
    def values(self) -> list[float]:
        return [row.value for rows in self.found.values() for row in rows]


def headline(study: StudyView) -> str:
    """One sentence about held-out loss, whatever the study's models, data sets, strategies and arms are."""
    rows = [row for row in compared(study) if row.metric == "loss"]
    sound = [row for row in rows if not row.doubt]
    planned = {(cell.model, cell.dataset, cell.strategy, cell.arm) for cell in study.cells}
    beside = {place[:3] for place in planned if place[3] == study.reference}
    waiting = sum(place[3] != study.reference and place[:3] in beside for place in planned) - len(rows)
    if not rows:
        return f"Nothing can be said yet: no arm is done beside {study.reference} with the same seed."
    doubted = [row for row in rows if row.doubt]
    why = ", ".join(sorted({row.doubt for row in doubted}))
    if not sound:
        return f"Nothing can be concluded: every comparison with {study.reference} is in doubt ({why})."
    clauses = _merged([_clause(arm, [row for row in sound if row.arm == arm]) for arm in others(study)])
    places = {(row.model, row.dataset, row.strategy) for row in sound}
    everywhere = all(len({row.place[:3] for row in _rows(clause)}) == len(places) for clause in clauses)
    shared = everywhere and all(clause.kind != "mixed" for clause in clauses)
    text = "; ".join(_said(study, clause, first=not number, placed=not shared) for number, clause in enumerate(clauses))
    if shared:
        where = _places(study, sound, sound)
        text = f"{where[0].upper()}{where[1:]}, {text}"
    notes = ["one seed, so no interval"] if all(row.different is None for row in sound) else []
    notes += [f"{count_of(len(doubted), 'comparison')} of {_arms(doubted)} left out: {why}"] if doubted else []
    notes += [f"{count_of(waiting, 'comparison')} not done yet"] if waiting else []
    said = f" ({'; '.join(notes)})" if notes else ""
    return f"{text}{said}."


def _arms(rows: Sequence[Row]) -> str:
    return listed(list(dict.fromkeys(row.arm for row in rows)))


def _clause(arm: str, rows: list[Row]) -> _Clause | None:
    found = {kind: [row for row in rows if _kind(row) == kind] for kind in _ORDER}
    return _Clause([arm], {kind: of for kind, of in found.items() if of}) if rows else None


def _kind(row: Row) -> str:
    if row.different is None:
        return "above" if row.value > 0 else "below" if row.value < 0 else "same"
    if row.value == 0 and row.error == 0:
        return "same"
    if row.equivalent:
        return "within"
    return ("behind" if row.value > 0 else "ahead") if row.different else "open"


def _merged(clauses: Sequence[_Clause | None]) -> list[_Clause]:
    """Best arms first; arms of one kind together, those with a size only where their ranges meet."""
    order = sorted(
        (clause for clause in clauses if clause),
        key=lambda c: (_ORDER.index(next(iter(c.found))), max(map(_ORDER.index, c.found)), min(c.values)),
    )
    found: list[_Clause] = []
    for clause in order:
        last = found[-1] if found else None
        alike = last and clause.kind == last.kind != "mixed"
        if last and alike and (clause.kind not in _ONE_WAY or min(clause.values) <= max(last.values)):
            found[-1] = _together(last, clause)
            continue
        found.append(clause)
    while len(found) > _MOST and found[-2].kind == found[-1].kind != "mixed":
        found[-2:] = [_together(found[-2], found[-1])]
    return found


def _together(one: _Clause, other: _Clause) -> _Clause:
    return _Clause([*one.arms, *other.arms], {one.kind: [*_rows(one), *_rows(other)]})


def _rows(clause: _Clause) -> list[Row]:
    return [row for rows in clause.found.values() for row in rows]


def _said(study: StudyView, clause: _Clause, *, first: bool, placed: bool) -> str:
    parts = list(_parts(study, clause, first=first, placed=placed))
    return f"{listed(clause.arms)} {', and '.join(parts)}"


def _parts(study: StudyView, clause: _Clause, *, first: bool, placed: bool) -> Iterator[str]:
    """What the arms do, a kind each, and where. first: the sentence has not yet said what it speaks of."""
    s = "" if len(clause.arms) > 1 else "s"
    for number, (kind, rows) in enumerate(clause.found.items()):
        opening = first and not number
        size = _range([abs(row.value) for row in rows])
        loss = f"{study.reference}'s held-out loss" if opening else study.reference
        ahead, behind, none = (
            f" {word} {study.reference} in held-out loss".replace("  ", " ") if opening else ""
            for word in ("of", "", "from")
        )
        said = {
            "within": f"end{s} within {margin_in_words(study.margin)} of {loss}",
            "same": f"end{s} exactly at {loss}",
            "ahead": f"end{s} {size} ahead{ahead}",
            "behind": f"end{s} {size} behind{behind}",
            "above": f"end{s} {size} above {loss}",
            "below": f"end{s} {size} below {loss}",
            "open": f"show{s} no difference{none}{_could(rows)}",
        }[kind]
        yield f"{said} {_places(study, rows, _rows(clause))}" if placed else said


def _could(rows: Sequence[Row]) -> str:
    sizes = [row.detectable for row in rows if row.detectable is not None]
    return f" (a gap under {share(max(sizes))} could go unseen)" if sizes else ""


def _places(study: StudyView, rows: Sequence[Row], of: Sequence[Row]) -> str:
    """Where: under which strategies, or in how many of the comparisons."""
    here = {row.place[:3] for row in rows}
    there = {row.place[:3] for row in of}
    if len({place[:2] for place in there}) == 1:
        strategies = [s for s in study.strategies if s in {place[2] for place in here}]
        if len(here) == len(there) == len(study.strategies) > 1:
            return f"under {_NUMBERS[len(here)] if len(here) < len(_NUMBERS) else f'all {len(here)}'} strategies"
        return f"under {listed(strategies)}"
    if len(here) == len(there):
        counts = [len({place[at] for place in there}) for at in range(3)]
        several = [
            count_of(n, noun) for n, noun in zip(counts, ("model", "data set", "strategy"), strict=True) if n > 1
        ]
        grid = f" ({' × '.join(several)})" if prod(counts) == len(there) else ""  # a study may leave some out
        return f"in all {len(there)} comparisons{grid}"
    return f"in {len(here)} of {len(there)} comparisons"


def _range(sizes: Sequence[float]) -> str:
    low, high = min(sizes), max(sizes)
    texts = [f"{100 * size:,.0f}%" if high >= 0.1 and size >= 0.02 else share(size) for size in (low, high)]
    return texts[0] if texts[0] == texts[1] else f"{texts[0].removesuffix('%')}–{texts[1]}"
