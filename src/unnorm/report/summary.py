"""What was compared, what was found, how sure it is and what was not shown: sentences computed from the ledger."""

from collections import Counter

from unnorm.report.gaps import Gap, gaps, others
from unnorm.study.view import StudyView

_NOT_DONE = "it and the arm it is compared with are not both done with any seed"


def summary(study: StudyView) -> list[str]:
    """The sentences, in reading order."""
    done = sum(cell.done for cell in study.cells)
    lines = [
        f"{_list(study.arms)} were compared under {_list(study.strategies)} on {_list(study.datasets)} with "
        f"{_list(study.models)}, {_count(len(study.seeds), 'seed')}: {done} of {_count(len(study.cells), 'cell')} done."
    ]
    many = len(study.models) * len(study.datasets) > 1
    found = {(gap.model, gap.dataset, gap.strategy, gap.arm): gap for gap in gaps(study)}
    for model in study.models:
        for dataset in study.datasets:
            for strategy in study.strategies:
                where = f"With {model} on {dataset} under {strategy}" if many else f"Under {strategy}"
                for arm in others(study):
                    gap = found.get((model, dataset, strategy, arm))
                    lines.append(_finding(gap, where) if gap else f"{where}, {arm} could not be compared: {_NOT_DONE}.")
    lines += _certainty(study)
    return lines


def _finding(gap: Gap, where: str) -> str:
    size = f"{_percent(abs(gap.mean))} {'above' if gap.mean >= 0 else 'below'} {gap.against}"
    numbers = f"{gap.loss:.4f} against {gap.against_loss:.4f} nats per token"
    if gap.low is None or gap.high is None:
        return f"{where}, {gap.arm} ends {size} ({numbers}; one seed, so no interval)."
    inside = "; the interval holds zero: no difference shown" if gap.low <= 0 <= gap.high else ""
    interval = f"95 % interval {gap.low:+.1%} to {gap.high:+.1%} over {len(gap.seeds)} seeds{inside}"
    return f"{where}, {gap.arm} ends {size} ({numbers}; {interval})."


def _certainty(study: StudyView) -> list[str]:
    lines = []
    if len(study.seeds) == 1:
        lines.append("One seed a cell: how much of a small gap is chance is not shown.")
    matched = study.audit.get("matched")
    if matched is True:
        lines.append("The audit found the arms matched: nothing that was configured or counted differs but the arm.")
    elif matched is False:
        wrong = sum(not c["matched"] for c in study.audit["comparisons"])
        lines.append(f"NOT MATCHED: the audit found {_count(wrong, 'comparison')} that differ in more than the arm.")
    else:
        lines.append("Nothing could be audited: no two arms are done in the same place.")
    left_out = Counter(cell.state for cell in study.cells if not cell.done)
    if left_out:
        states = ", ".join(f"{count} {state}" for state, count in left_out.items())
        lines.append(f"Not drawn and not counted: cells that are not done ({states}).")
    return lines


def _percent(share: float) -> str:
    """One decimal, or as many as a small share needs to be more than zero."""
    return f"{share:.1%}" if share >= 0.001 or share == 0 else f"{share:.3%}"


def _list(items: list[str]) -> str:
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
