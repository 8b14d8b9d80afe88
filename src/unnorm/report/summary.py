"""The answer, how sure it is, what is missing and what else was found: sentences computed from the ledger."""

from collections import Counter
from statistics import fmean

from unnorm.report.headline import headline
from unnorm.report.pairs import Group, compared, groups, tallies
from unnorm.report.table import latencies
from unnorm.report.wording import count_of, listed, signed, signed_interval
from unnorm.study.audit import elsewhere_in_words
from unnorm.study.compare import Row
from unnorm.study.start_words import start_in_words
from unnorm.study.view import StudyView

_FAIR = 0.5


def summary(study: StudyView) -> list[str]:
    """The answer in one sentence, what it rests on, and what else was found, in reading order."""
    return [headline(study), *grounds(study), *findings(study)]


def grounds(study: StudyView) -> list[str]:
    """How sure the answer is, and what is missing from it."""
    done = sum(cell.done for cell in study.cells)
    left_out = Counter(cell.state for cell in study.cells if not cell.done)
    states = ", ".join(f"{count} {state}" for state, count in left_out.items())
    lines = [
        f"{done} of {count_of(len(study.cells), 'cell')} done"
        + (f"; those that are not ({states}) are neither drawn nor counted." if left_out else ".")
    ]
    rows = [row for row in compared(study) if row.metric == "loss"]
    if found := sorted({_drawn(row) for row in rows if row.low is not None}):
        over = listed(found) if len(found) <= 2 else "conversations, and over seeds where there are several"
        lines[0] += f" 95 % intervals over {over}."
    if len(study.seeds) == 1:
        lines.append("One seed a cell: what another seed would give is not shown by any interval here.")
    matched = study.audit.get("matched")
    if matched is True:
        lines.append("The audit found the arms matched: nothing that was configured or counted differs but the arm.")
    elif matched is False:
        wrong = sum(not c["matched"] for c in study.audit["comparisons"])
        lines.append(f"NOT MATCHED: the audit found {count_of(wrong, 'comparison')} that differ in more than the arm.")
    else:
        lines.append("Nothing could be audited: no two arms are done in the same place.")
    return lines + _unlearnt(study) + elsewhere_in_words(study.audit.get("elsewhere", []))


def _unlearnt(study: StudyView) -> list[str]:
    """A sentence for each place where the reference itself learned nothing: a gap to it says little of norms."""
    lines = []
    for model, dataset, strategy in study.strata:
        here = [cell for place, cell in study.done.items() if place.stratum == (model, dataset, strategy)]
        found = [cell.result for cell in here if cell.result and cell.arm == study.reference]
        if not found:
            continue
        before, after = (fmean(result[name] for result in found) for name in ("start_eval_loss", "eval_loss"))
        if after >= before:
            lines.append(
                f"{_where(study, model, dataset, strategy)}, {study.reference} itself learned nothing: its held-out "
                f"loss went from {before:.4f} to {after:.4f} nats a token. A gap to it says little here. Look for a "
                "better learning rate (`tune:` in the study file)."
            )
    return lines


def findings(study: StudyView) -> list[str]:
    """What else was found: starts, answers, times, a sentence each. Losses are in the table."""
    pairs = groups(study)
    judged = [_judged(study, group) for group in pairs if group.judged]
    return [*_unfitted(study), *_recovered(study), *judged, *(_timed(study, group) for group in pairs if group.timed)]


def _unfitted(study: StudyView) -> list[str]:
    """One sentence for each arm whose fit was measured, found worse than none, and not kept: it is a bare arm."""
    found: dict[tuple[str, str, str, str], None] = {}
    for cell in study.cells:
        steps = (cell.calibration or {}).get("steps") or [] if cell.done else []
        if len(steps) > 1 and [step["name"] for step in steps if step["kept"]] == ["bare"]:
            bare, fitted = steps[0]["loss"], steps[-1]["loss"]
            worse = "gave logits that are not finite"  # whose loss is NaN, which is null in JSON
            if fitted is not None:
                worse = f"was worse than none ({fitted:.2f} against {bare:.2f} nats a token)"
            found[cell.model, cell.dataset, cell.arm, worse] = None
    return [
        f"{_on(study, model, dataset)}{arm} begins as a bare swap: on held-out text its fit {worse}, and was not kept."
        for model, dataset, arm, worse in found
    ]


def _recovered(study: StudyView) -> list[str]:
    """One sentence a base and start: what an arm learnt from before the training that all arms have."""
    found: dict[tuple[str, ...], None] = {}
    for cell in study.cells:
        if cell.done and cell.recovery is not None:
            found[cell.model, cell.dataset, cell.arm, start_in_words(cell.recovery)] = None
    return [
        f"{_on(study, model, dataset)}{arm} begins from a recovered start. Tokens that it "
        f"learnt from before the training that all arms have: {words}."
        for model, dataset, arm, words in found
    ]


def _on(study: StudyView, model: str, dataset: str) -> str:
    """How a sentence begins that holds for one base and data, where the study has several."""
    return f"With {model} on {dataset}, " if len(study.models) * len(study.datasets) > 1 else ""


def _drawn(row: Row) -> str:
    """What the interval is over."""
    seeds = count_of(len(row.seeds), "seed")
    return f"{seeds} and {count_of(row.conversations, 'conversation')}" if row.conversations else seeds


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
    doubt = f" In doubt: {group.doubt_of_times}." if group.doubt_of_times else ""
    return f"{_where(study, *_place(group))}, time of {group.arm} against {group.against}'s: {'; '.join(parts)}.{doubt}"


def _place(group: Group) -> tuple[str, str, str]:
    return group.model, group.dataset, group.strategy


def _where(study: StudyView, model: str, dataset: str, strategy: str) -> str:
    many = len(study.models) * len(study.datasets) > 1
    return f"With {model} on {dataset} under {strategy}" if many else f"Under {strategy}"
