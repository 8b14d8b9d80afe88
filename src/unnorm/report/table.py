"""The table of results: a row for each arm in each place, its seeds together. What every format is written from."""

from typing import Any

from unnorm.report.pairs import compared, groups, tallies
from unnorm.report.verdicts import verdict
from unnorm.study.view import StudyView

COLUMNS = (
    "model", "dataset", "strategy", "arm", "seeds", "planned_seeds", "start_eval_loss", "eval_loss",
    "eval_token_accuracy", "gap", "gap_low", "gap_high", "accuracy_difference", "win_rate", "win_rate_low",
    "win_rate_high", "judgements", "matched", "complete", "start_tokens", "gap_detectable", "margin", "equivalent",
    "verdict", "judged_seeds",
)  # fmt: skip
LATENCY = (
    "model",
    "dataset",
    "strategy",
    "arm",
    "seed",
    "workload",
    "time_ratio",
    "low",
    "high",
    "noise_floor",
    "verdict",
    "doubt",
)


def results(study: StudyView) -> list[dict[str, Any]]:
    """One row a model, data set, strategy and arm, in `COLUMNS`; losses and accuracies are means over finished seeds.

    start_tokens: those that the arm's start learnt from, before any training; the same for all seeds.
    gap, gap_low, gap_high: relative, of the held-out loss to the reference's, with its 95 % interval. gap_detectable:
    the smallest gap that the study could have shown; margin, equivalent: of the equivalence test; verdict: in words.
    judged_seeds: those that the win rate is over.
    Numbers that there are not are None; a place where nothing is done has no numbers at all. What the study's file
    leaves out has no row.
    """
    found = {(row.place, row.metric): row for row in compared(study)}
    judged = {
        (g.model, g.dataset, g.strategy, g.arm): [(of_all, len(g.judged)) for _, of_all in tallies(g)[:1]]
        for g in groups(study)
        if g.judged
    }
    rows = []
    for model, dataset, strategy in study.strata:
        for arm in study.arms:
            place = (model, dataset, strategy, arm)
            cells = [c for c in study.cells if (*c.place.stratum, c.arm) == place]
            if not cells:  # left out of the study
                continue
            done = [c.result for c in cells if c.result]
            row: dict[str, Any] = dict.fromkeys(COLUMNS)
            row |= {"model": model, "dataset": dataset, "strategy": strategy, "arm": arm}
            row |= {"seeds": len(done), "planned_seeds": len(cells), "complete": len(done) == len(cells)}
            if done:
                row["start_tokens"] = max(result.get("start_tokens", 0) for result in done)
            for key in ("start_eval_loss", "eval_loss", "eval_token_accuracy") if done else ():
                row[key] = sum(result[key] for result in done) / len(done)
            if gap := found.get((place, "loss")):
                row |= {"gap": gap.value, "gap_low": gap.low, "gap_high": gap.high, "matched": gap.matched}
                row |= {"complete": gap.complete, "gap_detectable": gap.detectable, "margin": gap.margin}
                row |= {"equivalent": gap.equivalent, "verdict": verdict(gap, brief=True)}
            if accuracy := found.get((place, "accuracy")):
                row["accuracy_difference"] = accuracy.value
            for of_all, seeds in judged.get(place, ()):
                rate = of_all.win_rate
                row |= {"win_rate": rate.value, "win_rate_low": rate.low, "win_rate_high": rate.high}
                row |= {"judgements": of_all.judgements, "judged_seeds": seeds}
            rows.append(row)
    return rows


def latencies(study: StudyView) -> list[dict[str, Any]]:
    """One row an arm, seed and workload, in `LATENCY`. doubt: why they are no result, all of an arm's in one place."""
    rows = []
    for group in groups(study):
        for pair in group.timed:
            for found in (pair.latency or {})["comparisons"]:
                if found["model"] == group.arm:
                    ratio, floor = found["ratio"], found["floor"]
                    reach = max(abs(floor["low"] - 1), abs(floor["high"] - 1))
                    values = (
                        group.model, group.dataset, group.strategy, group.arm, pair.seed, found["name"],
                        ratio["value"], ratio["low"], ratio["high"], reach, found["verdict"],
                        group.doubt_of_times,
                    )  # fmt: skip
                    rows.append(dict(zip(LATENCY, values, strict=True)))
    return rows
