"""What was compared, what was found, how sure it is and what was not shown: sentences computed from the ledger."""

from collections import Counter

from unnorm.report.comparisons import behind, compared, others
from unnorm.report.pairs import Group, groups, tallies
from unnorm.report.table import latencies
from unnorm.report.verdicts import verdict_sentences
from unnorm.report.wording import share, signed, signed_interval
from unnorm.study.audit import elsewhere_in_words
from unnorm.study.compare import Row
from unnorm.study.start_words import start_in_words
from unnorm.study.view import StudyView

_NOT_DONE = "it and the arm it is compared with are not both done with any seed"
_FAIR = 0.5


def summary(study: StudyView) -> list[str]:
    """The sentences, in reading order."""
    done = sum(cell.done for cell in study.cells)
    lines = [
        f"{_list(study.arms)} were compared under {_list(study.strategies)} on {_list(study.datasets)} with "
        f"{_list(study.models)}, {_count(len(study.seeds), 'seed')}: {done} of {_count(len(study.cells), 'cell')} done."
    ]
    planned = {(cell.model, cell.dataset, cell.strategy, cell.arm) for cell in study.cells}
    found = {row.place: row for row in compared(study) if row.metric == "loss"}
    for model, dataset, strategy in study.strata:
        where = _where(study, model, dataset, strategy)
        for arm in others(study):
            if (model, dataset, strategy, arm) not in planned:
                continue
            row = found.get((model, dataset, strategy, arm))
            lines.append(_finding(study, row, where) if row else f"{where}, {arm} could not be compared: {_NOT_DONE}.")
    lines += _recovered(study)
    pairs = groups(study)
    lines += [_judged(study, group) for group in pairs if group.judged]
    lines += [_timed(study, group) for group in pairs if group.timed]
    lines += _certainty(study)
    return lines


def _finding(study: StudyView, row: Row, where: str) -> str:
    cells = [(one.result or {}, other.result or {}) for one, other in behind(study, row)]
    losses = [sum(pair[side]["eval_loss"] for pair in cells) / len(cells) for side in (0, 1)]
    size = f"{share(abs(row.value))} {'above' if row.value >= 0 else 'below'} {row.against}"
    numbers = f"{losses[0]:.4f} against {losses[1]:.4f} nats per token"
    doubt = f" In doubt: {row.doubt}." if row.doubt else ""
    if row.low is None or row.high is None:
        return f"{where}, {row.arm} ends {size} ({numbers}; one seed, so no interval).{doubt}"
    interval = f"95 % interval {signed_interval(row.low, row.high)} over {_drawn(row)}"
    return f"{where}, {row.arm} ends {size} ({numbers}; {interval}). {verdict_sentences(row)}{doubt}"


def _recovered(study: StudyView) -> list[str]:
    """One sentence a base and start: what an arm learnt from before the training that all arms have."""
    found: dict[tuple[str, ...], None] = {}
    for cell in study.cells:
        if cell.done and cell.recovery is not None:
            found[cell.model, cell.dataset, cell.arm, start_in_words(cell.recovery)] = None
    several = len(study.models) * len(study.datasets) > 1
    return [
        f"{f'With {model} on {dataset}, ' if several else ''}{arm} begins from a recovered start. Tokens that it "
        f"learnt from before the training that all arms have: {words}."
        for model, dataset, arm, words in found
    ]


def _drawn(row: Row) -> str:
    """What the interval is over."""
    seeds = _count(len(row.seeds), "seed")
    return f"{seeds} and {_count(row.conversations, 'conversation')}" if row.conversations else seeds


def _judged(study: StudyView, group: Group) -> str:
    where = _where(study, *_place(group))
    kind = (group.judged[0].judge or {})["judge"]["kind"]
    of_all = next((found for _, found in tallies(group)), None)
    rate = of_all.win_rate if of_all is not None else None
    if of_all is None or rate is None or rate.low is None:
        return f"{where}, the judge ({kind}) gave no verdict on {group.arm} against {group.against}."
    verdict = "no difference shown"
    if rate.leaves_out(_FAIR):
        verdict = f"{group.arm if rate.value > _FAIR else group.against} is preferred"
    doubt = f" In doubt: {group.doubt}." if group.doubt else ""
    return (
        f"{where}, the judge ({kind}) sets {group.arm} against {group.against}: {verdict}. {group.arm} wins "
        f"{rate.value:.0%} (95 % interval {rate.low:.0%} to {rate.high:.0%}, ties as half, "
        f"{of_all.judgements} judgements).{doubt}"
    )


def _timed(study: StudyView, group: Group) -> str:
    """One sentence for all workloads and seeds."""
    found = [
        row for row in latencies(study)
        if (row["model"], row["dataset"], row["strategy"], row["arm"]) == (*_place(group), group.arm)
    ]  # fmt: skip
    several = len(group.timed) > 1
    parts = [
        f"{row['workload']}{', seed ' + str(row['seed']) if several else ''}: {row['verdict']}, "
        f"{signed(row['time_ratio'] - 1)} "
        f"(95 % interval {signed_interval(row['low'] - 1, row['high'] - 1)}; noise floor ± {row['noise_floor']:.1%})"
        for row in found
    ]
    return f"{_where(study, *_place(group))}, time of {group.arm} against {group.against}'s: {'; '.join(parts)}."


def _place(group: Group) -> tuple[str, str, str]:
    return group.model, group.dataset, group.strategy


def _certainty(study: StudyView) -> list[str]:
    lines = []
    if len(study.seeds) == 1:
        lines.append("One seed a cell: what another seed would give is not shown by any interval here.")
    matched = study.audit.get("matched")
    if matched is True:
        lines.append("The audit found the arms matched: nothing that was configured or counted differs but the arm.")
    elif matched is False:
        wrong = sum(not c["matched"] for c in study.audit["comparisons"])
        lines.append(f"NOT MATCHED: the audit found {_count(wrong, 'comparison')} that differ in more than the arm.")
    else:
        lines.append("Nothing could be audited: no two arms are done in the same place.")
    lines += elsewhere_in_words(study.audit.get("elsewhere", []))
    left_out = Counter(cell.state for cell in study.cells if not cell.done)
    if left_out:
        states = ", ".join(f"{count} {state}" for state, count in left_out.items())
        lines.append(f"Not drawn and not counted: cells that are not done ({states}).")
    return lines


def _where(study: StudyView, model: str, dataset: str, strategy: str) -> str:
    many = len(study.models) * len(study.datasets) > 1
    return f"With {model} on {dataset} under {strategy}" if many else f"Under {strategy}"


def _list(items: list[str]) -> str:
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
