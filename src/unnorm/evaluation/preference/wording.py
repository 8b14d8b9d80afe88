"""What a comparison found, in sentences; each holds its number and how sure it is."""

from unnorm.evaluation.intervals import Estimate
from unnorm.evaluation.preference.compare import Judgement
from unnorm.evaluation.preference.summary import Preference

_FAIR = 0.5
_LEVEL = 0.05


def sentences(found: Judgement) -> list[str]:
    """The sentences, in reading order: result, what could have been shown, the judge's own faults, the answers'."""
    lines = [line for part, preference in found.parts.items() for line in _result(part, preference)]
    whole = next(iter(found.parts.values()))
    lines += _judge(found, whole)
    lines += _answers(found, whole)
    if found.caveat:
        lines.append(f"Note: {found.caveat}")
    return lines


def percent(estimate: Estimate | None) -> str:
    """An estimate with its interval."""
    if estimate is None:
        return "not known"
    return f"{estimate.value:.1%} (95 % interval {estimate.low:.1%} to {estimate.high:.1%})"


def _result(part: str, found: Preference) -> list[str]:
    if found.win_rate is None:
        return [f"{part}: no verdict, so nothing is known."]
    verdict = "no difference shown"
    if found.sign_test_p < _LEVEL:
        verdict = "A is preferred" if found.win_rate.value > _FAIR else "B is preferred"
    p = f"p = {found.sign_test_p:.3g} by sign test"
    if found.permutation_p is not None:
        p += f", {found.permutation_p:.3g} by permutation of scores"
    lines = [f"{part}: {verdict}. A wins {percent(found.win_rate)} of {found.questions} questions; {p}."]
    if found.detectable.with_power is None:
        lines.append(f"{part}: so few questions are not ties that no win rate could have been significant.")
    elif found.detectable.significant is not None:
        lines.append(
            f"{part}: these questions show a win rate of {found.detectable.significant:.1%} or more as significant, "
            f"and would find a true one of {found.detectable.with_power:.1%} four times in five."
        )
    return lines


def _judge(found: Judgement, whole: Preference) -> list[str]:
    if not found.sees_order:
        return [
            "The judge scores each answer alone: order cannot sway it, and A against itself is a tie by construction.",
            *_missing(whole, None),
        ]
    lines = [f"Its two orders disagree on {percent(whole.order_flip_rate)} of the questions, which count as ties."]
    first = whole.first_position_rate
    biased = first is not None and first.leaves_out(_FAIR)
    lines.append(f"It prefers what stands first in {percent(first)} of its verdicts{_warn(biased, 'POSITION BIAS')}.")
    null = found.null
    lines.append(
        f"A against itself: {null.ties} ties, {null.wins + null.losses} preferences of {null.questions}; what stands "
        f"first is preferred in {percent(null.first_position_rate)}."
    )
    return lines + _missing(whole, null)


def _missing(whole: Preference, null: Preference | None) -> list[str]:
    """That the judge said nothing: what it did not say is in no number."""
    of_null = null.without_verdict if null is not None else 0
    if not whole.without_verdict and not of_null:
        return []
    beside = f", and on {of_null} of the null run" if null is not None else ""
    asked = whole.questions + whole.without_verdict
    return [f"NO VERDICT on {whole.without_verdict} of {asked} questions{beside}; these count nowhere."]


def _answers(found: Judgement, whole: Preference) -> list[str]:
    lines = []
    if whole.length_ratio is not None:
        ratio = whole.length_ratio
        lines.append(f"A's answers are {ratio.value:.2f} times as long ({ratio.low:.2f} to {ratio.high:.2f}).")
    if whole.length_controlled is not None:
        controlled = whole.length_controlled
        biased = controlled.effect.leaves_out(0)
        lines.append(f"At equal length A would win {percent(controlled.win_rate)}{_warn(biased, 'LENGTH SWAYS IT')}.")
    counts = found.counts
    lines.append(
        f"Of {counts.answers} answers each: empty {counts.empty_a} of A and {counts.empty_b} of B, cut off at the "
        f"limit {counts.truncated_a} and {counts.truncated_b}, identical {counts.identical}."
    )
    if counts.cut:
        lines.append(f"{counts.cut} verdicts rest on text that was cut to what the judge can read.")
    if found.unpaired:
        lines.append(f"Left out: {len(found.unpaired)} prompts that are not in both files with as many turns.")
    return lines


def _warn(warned: bool, what: str) -> str:
    return f": {what}" if warned else ""
