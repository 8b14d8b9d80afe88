"""The studies that `scale.py simulate` runs, with what a ledger was measured to take."""

import csv
import json
import statistics
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from scale_simulation import Loop, Machines, Outcome, Study, simulate
from unnorm.foundation.progress import Bar

DAY = 86_400.0
FAILURES = {"none": 0.0, "one a node-month": 1 / (30 * DAY), "one a node-day": 1 / DAY}
MINUTE, TEN_MINUTES, HOUR = 60.0, 600.0, 3_600.0
SUBMIT = 0.001
"""Seconds to hand a task to an engine. Assumed."""
LIMITS = (
    (100, 10_000, MINUTE),
    (100, 10_000, TEN_MINUTES),
    (1_000, 10_000, MINUTE),
    (1_000, 1_000, TEN_MINUTES),
    (1_000, 10_000, TEN_MINUTES),
    (1_000, 20_000, TEN_MINUTES),
    (1_000, 10_000, HOUR),
    (5_000, 10_000, TEN_MINUTES),
    (5_000, 10_000, HOUR),
)
"""GPUs, cells, and their mean duration."""
STUDY = Path(__file__).parent / "results" / "standin" / "results.csv"


def loop_of(ledger: Path, latency_ms: float) -> Loop:
    """What was measured on the largest ledger without latency, and for each counted call the latency."""
    figures = [figure for figure in json.loads(ledger.read_text())["records"] if not figure["latency"]]
    most = max(figure["cells"] for figure in figures)
    seconds = {
        figure["operation"]: figure["seconds"] + figure["calls"] * latency_ms / 1e3
        for figure in figures
        if figure["cells"] == most
    }
    read = seconds["look through all"] / most
    return Loop(
        read=read, claim=seconds["claim"] + 2 * read, commit=seconds["commit"] + seconds["publish"], submit=SUBMIT
    )


def shape() -> tuple[float, ...]:
    """Durations of the cells of a real study, of stand-in bases, relative to their mean."""
    with STUDY.open() as file:
        seconds = [float(row["wall_seconds"]) for row in csv.DictReader(file)]
    mean = statistics.mean(seconds)
    return tuple(each / mean for each in seconds)


def study_of(cells: int, mean: float) -> Study:
    """Checkpoints five times a cell, as studies have them by default."""
    return Study(cells=cells, mean=mean, shape=shape(), start_seconds=2 * mean, checkpoint=mean / 5)


Case = tuple[str, dict[str, Any], Study, Machines, Loop]


def cases(ledger: Path) -> Iterator[Case]:
    """(which table, what tells the row, and what is run)."""
    usual = loop_of(ledger, 1)
    for mean in (TEN_MINUTES, HOUR):
        for name, rate in FAILURES.items():
            study, machines = study_of(10_000, mean), Machines(failures=rate)
            told = {"mean_seconds": mean, "failures": name}
            yield "cost", {**told, "how": "as recommended"}, study, machines, usual
            yield "cost", {**told, "how": "lost cells last"}, study, machines, replace(usual, in_order=False)
            slow = replace(machines, start_up_each_task=True)
            yield "cost", {**told, "how": "a process for each task"}, study, slow, usual
    for latency in (0, 0.5, 1, 5):
        loop = loop_of(ledger, latency)
        for driver in (True, False):
            told = {"latency_ms": latency, "how": "one driver looks" if driver else "each process looks"}
            yield "looks", told, study_of(10_000, TEN_MINUTES), Machines(), replace(loop, driver=driver)
        for gpus, cells, mean in LIMITS:
            told = {"latency_ms": latency, "gpus": gpus, "mean_seconds": mean}
            yield "limit", told, study_of(cells, mean), Machines(gpus=gpus), loop


def records(ledger: Path, seed: int, seeds: int, *, quiet: bool) -> list[dict[str, Any]]:
    """A record a case: means over seeds where nodes fail. lost_to_ledger: efficiency without what a ledger takes, less
    that with it."""
    found = []
    free: dict[tuple[Study, Machines], float] = {}
    every = list(cases(ledger))
    with Bar("simulating", len(every), quiet=quiet) as bar:
        for table, told, study, machines, loop in every:
            runs = range(seed, seed + (seeds if machines.failures else 1))
            outcomes = [simulate(study, machines, loop, each) for each in runs]
            record = {"table": table, **told, **_mean(outcomes, machines)}
            if table == "limit":
                key = (study, machines)
                free[key] = free.get(key) or simulate(study, machines, Loop(), seed).efficiency
                record["lost_to_ledger"] = free[key] - record["efficiency"]
            found.append(record)
            bar.advance(1, table)
    return found


def _mean(outcomes: list[Outcome], machines: Machines) -> dict[str, Any]:
    def mean(values: list[float]) -> float:
        return statistics.mean(values)

    whole = [machines.gpus * outcome.makespan for outcome in outcomes]
    shares = {
        name: mean([outcome.spent[name] / all_of_it for outcome, all_of_it in zip(outcomes, whole, strict=True)])
        for name in outcomes[0].spent
        if name != "useful"
    }
    return {
        "cells": outcomes[0].cells,
        "runs": len(outcomes),
        "efficiency": mean([outcome.efficiency for outcome in outcomes]),
        "worst_efficiency": min(outcome.efficiency for outcome in outcomes),
        "makespan_hours": mean([outcome.makespan / HOUR for outcome in outcomes]),
        "gpu_hours": mean([each / HOUR for each in whole]),
        "deaths": mean([outcome.deaths for outcome in outcomes]),
        "given_up": mean([outcome.given_up for outcome in outcomes]),
        "round_seconds": max(outcome.round_seconds for outcome in outcomes),
        **shares,
    }
