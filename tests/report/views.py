"""Made-up studies for the report's tests; what later stages write is made by their own code, on made-up inputs."""

import json
import math
import tempfile
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from evaluation.preference.made import MadeJudge, better_wins, write_answers
from unnorm import DyT
from unnorm.evaluation.judges.interface import WHOLE
from unnorm.evaluation.latency.harness import AGAIN, NO_NORMS
from unnorm.evaluation.latency.report import Comparison, LatencyReport, ratio_of, verdict_of
from unnorm.evaluation.latency.workloads import Workload
from unnorm.evaluation.preference.answers import pair_answers
from unnorm.evaluation.preference.compare import compare
from unnorm.evaluation.preference.outcomes import outcomes_of
from unnorm.evaluation.preference.verdicts import VerdictLog
from unnorm.foundation import atomic
from unnorm.study.lease import TaskFolder, add_entry
from unnorm.study.view import CellView, PairView, StudyView
from unnorm.surgery.calibrate import CalibrationReport, SiteFit
from unnorm.surgery.site_sample import sample_site
from unnorm.tuning.recover_report import RecoverReport

ARMS, STRATEGIES = ["original", "dyt-bare", "dyt"], ["frozen", "full"]
SITES = [f"layers.{block}.{name}" for block in range(3) for name in ("input_layernorm", "post_attention_layernorm")]
CATEGORIES = ["writing", "reasoning", "extraction"]
QUESTIONS = 24


def loss_of(arm: str, strategy: str, seed: int, model: str = "tiny") -> float:
    known = ARMS.index(arm) * 0.13 if arm in ARMS else 0.2
    wobble = 0.01 * ((seed * 7 + len(arm) + 3 * len(strategy)) % 5)
    return 4.0 - 0.1 * len(model) + known - STRATEGIES.index(strategy) * 0.2 + wobble


@lru_cache(maxsize=1)
def calibration() -> dict:
    """Of every site, DyT fitted to a LayerNorm on random activations whose spread grows with depth."""
    generator = torch.Generator().manual_seed(0)
    fits = []
    for depth, path in enumerate(SITES):
        size = 0.2 * 1.7**depth * (0.3 + torch.rand(200, 1, generator=generator))
        x = size * torch.randn(200, 16, generator=generator)
        y = torch.nn.functional.layer_norm(x, (16,))
        norm = DyT().build(16)
        fit = DyT().fit_(norm, x, y)
        fits.append(
            SiteFit(path, fit.r2, fit.alpha, fit.saturation, 0.01, sample=sample_site(norm, x, y, centred=True))
        )
    return {"sites": [], "specs": {}, "calibration": CalibrationReport(200, 0.5, 0.1, tuple(fits)).to_dict()}


@lru_cache(maxsize=1)
def recovery() -> dict:
    """Of a start that was distilled in 30 steps, measured four times: from a gap of 180 % to one of 2.5 %."""
    curve = tuple(
        {"step": i, "train_tokens": 1024 * i, "loss": 2.0 * (1 + gap), "kl": gap / 2, "gap": gap}
        for i, gap in ((0, 1.8), (10, 0.4), (20, 0.08), (30, 0.025))
    )
    report = RecoverReport(
        kl_before=0.9,
        kl_after=0.0125,
        gap_before=1.8,
        gap_after=0.025,
        original_loss=2.0,
        kept=True,
        train="all",
        objective="kl",
        steps=30,
        tokens=30_720,
        parameters=100,
        seconds=2.0,
        held_out_tokens=500,
        reached_target=False,
        losses=tuple(0.8 * math.exp(-i / 12) + 0.1 for i in range(30)),
        curve=curve,
    )
    return {**report.to_dict(), "data": [{"name": "rows", "weight": 1.0, "tokens": 30_720}]}


def steps_of(arm: str, strategy: str, seed: int, loss: float) -> list[dict]:
    moves = 0.0 if strategy == "frozen" else 0.02
    steps = []
    for i in range(1, 41):
        noise = 0.05 * math.sin(3.7 * i + seed)
        record = {
            "step": i, "train_tokens": 5_000 * i - 37 * seed, "loss": loss + 1 / i + noise,
            "token_accuracy": 0.4, "grad_norm": 1.5 + 2 / i + abs(noise),
        }  # fmt: skip
        if arm != "original":
            start = {s["path"]: s["alpha"] if arm == "dyt" else 0.5 for s in calibration()["calibration"]["sites"]}
            record["alpha"] = {
                path: value * (1 + moves * i * (j - 2) / 6) for j, (path, value) in enumerate(start.items())
            }
            record["saturation"] = {path: 0.002 * j * (1 + i / 40) for j, path in enumerate(start)}
        steps.append(record)
    return steps


def cell(
    arm: str, strategy: str, seed: int, state: str = "done", text: str = "an answer", model: str = "tiny"
) -> CellView:
    loss = loss_of(arm, strategy, seed, model)
    steps = steps_of(arm, strategy, seed, loss)
    return CellView(
        cell=f"{arm}{strategy}{seed}{model}",
        model=model,
        dataset="rows",
        arm=arm,
        strategy=strategy,
        seed=seed,
        state=state,
        error="NonFiniteError: at step 3 <b>" if state == "failed" else None,
        result={
            "steps": 40,
            "train_tokens": 200_000,
            "trainable_parameters": 10_000,
            "total_parameters": 4_200_000 * len(model),
            "start_eval_loss": loss + 1,
            "eval_loss": loss,
            "loss_drop": 0.1,
            "eval_token_accuracy": 0.5 - 0.01 * ARMS.index(arm) if arm in ARMS else 0.45,
            "eval_tokens": 48_000,
            "start_tokens": 30_720 if arm == "dyt" else 0,
            "grad_norm_last": 1.0,
            "tokens_per_second": 5123.4,
            "wall_seconds": 39.0,
        }
        if state == "done"
        else None,
        steps=steps,
        evaluations=[
            {
                "step": i, "train_tokens": 5_000 * i, "loss": loss + (40 - i) / 40,
                "token_accuracy": 0.3 + 0.004 * i, "tokens": 48_000,
            }
            for i in (0, 10, 20, 30, 40)
        ],
        calibration=(calibration() if arm == "dyt" else {"calibration": None}) if arm != "original" else None,
        recovery=recovery() if arm == "dyt" else None,
        completions=[
            {
                "prompt_id": f"q{i}", "category": CATEGORIES[i % 3], "turn": 0, "prompt": f"Question {i}?",
                "text": text if i == 0 else f"{arm} says {'much ' * (i % 7)}about {i}.",
                "finish_reason": "length" if i == 2 else "stop",
            }
            for i in range(QUESTIONS)
        ],
    )  # fmt: skip


@lru_cache(maxsize=8)
def judged(seed: int, quality: float) -> tuple[dict, list[dict]]:
    """(Comparison.to_dict(), a record a question) of made answers under a judge that reads how good they are."""
    generator = np.random.default_rng(seed)
    folder = Path(tempfile.mkdtemp())
    paths = []
    for name, shift in (("a", quality), ("b", 0.0)):
        texts = []
        for number, draw in enumerate(generator.normal(shift, 1, QUESTIONS)):
            text = f"{0.0 if number % 8 == 0 else draw:+.4f}"
            texts.append(text.ljust(20 + int(generator.integers(0, 200)), "x"))
        paths.append(write_answers(folder / f"{name}.jsonl", texts, categories=tuple(CATEGORIES)))
    judge = MadeJudge(better_wins)
    found = compare(*paths, judge, out=folder / "out", quiet=True)
    log = VerdictLog(folder / "out", json.loads((folder / "out" / "judging.json").read_text()))
    outcomes = outcomes_of(pair_answers(*paths).questions, WHOLE, log.known, 0.0, sees_order=True)
    keep = ("prompt_id", "category", "value", "score", "a_length", "b_length")
    return found.to_dict(), [{key: getattr(outcome, key) for key in keep} for outcome in outcomes]


@lru_cache(maxsize=8)
def timed(arm: str, reference: str, factor: float, seed: int = 0) -> dict:
    """LatencyReport.to_dict() of made times: the arm takes `factor` of the reference's, no norms 0.9 of it."""
    generator = np.random.default_rng(seed)
    comparisons = []
    for workload in (Workload(length=128), Workload(kind="decode", length=64)):

        def times(scale: float) -> np.ndarray:
            return scale * np.exp(generator.normal(0, 0.01, (20, 2)))

        base, again, ours, bare = times(1), times(1), times(factor), times(0.9)
        floor = ratio_of(again, base)
        for name, taken in ((arm, ours), (AGAIN, again), (NO_NORMS, bare)):
            ratio = ratio_of(taken, base)
            comparisons.append(Comparison(workload, name, reference, ratio, floor, verdict_of(ratio, floor), None))
    about = {"processor": "made up", "threads": 1, "load": [0.0], "device": "cpu"}
    return LatencyReport(comparisons, about, 1.0, []).to_dict()


def pairs_of(cells: list[CellView], seeds) -> list[PairView]:
    found = []
    done = {(c.arm, c.strategy, c.seed, c.model) for c in cells if c.done}
    for c in cells:
        if (
            c.arm == "original"
            or not {(c.arm, c.strategy, c.seed, c.model), ("original", c.strategy, c.seed, c.model)} <= done
        ):
            continue
        judge, verdicts = judged(c.seed, -0.8 if c.arm == "dyt-bare" else -0.1)
        latency = timed(c.arm, "original", 0.97 if c.arm == "dyt" else 0.975) if c.seed == seeds[0] else None
        found.append(PairView(c.model, c.dataset, c.strategy, c.seed, c.arm, "original", judge, verdicts, latency))
    return found


def study(
    seeds=(0,),
    broken: dict | None = None,
    text: str = "an answer",
    matched: bool = True,
    models=("tiny",),
    pairs: bool = False,
) -> StudyView:
    """broken: (arm, strategy, seed) -> state of a cell that is not done."""
    cells = [
        cell(arm, strategy, seed, (broken or {}).get((arm, strategy, seed), "done"), text, model)
        for model in models
        for seed in seeds
        for arm in ARMS
        for strategy in STRATEGIES
    ]
    done = {(c.model, c.arm, c.strategy, c.seed) for c in cells if c.done}
    comparisons = [
        {
            "model": c.model, "dataset": "rows", "strategy": c.strategy, "seed": c.seed, "arm": c.arm,
            "against": "original", "matched": matched or (c.arm, c.strategy) != ("dyt", "frozen"),
            "differences": [] if matched or (c.arm, c.strategy) != ("dyt", "frozen") else ["steps: 8 against 9"],
        }
        for c in cells
        if c.arm != "original" and c.done and (c.model, "original", c.strategy, c.seed) in done
    ]  # fmt: skip
    return StudyView(
        name="made-up",
        folder=Path("nowhere"),
        source="name: made-up\n",
        arms=list(ARMS),
        strategies=list(STRATEGIES),
        models=list(models),
        datasets=["rows"],
        seeds=list(seeds),
        cells=cells,
        audit={"matched": matched if comparisons else None, "comparisons": comparisons},
        versions={"torch": "2"},
        pairs=pairs_of(cells, list(seeds)) if pairs else [],
    )


def waiting_ledger(ledger: Path) -> Path:
    """A ledger with one study of two cells that have not begun; the study's folder."""
    about = {"model": "m", "dataset": "d", "strategy": "full", "seed": 0, "stages": {}}
    cells = [{"cell": arm, "folder": f"cell-{arm}", "arm": arm, **about} for arm in ("original", "dyt")]
    atomic.write_json(
        ledger / "made" / "study.json",
        {
            "format": 2, "name": "made", "source": "name: made\n", "arms": ["original", "dyt"], "strategies": ["full"],
            "models": ["m"], "datasets": ["d"], "seeds": [0], "cells": cells, "versions": {"torch": "2"},
        },
    )  # fmt: skip
    return ledger / "made"


def fail(folder: Path, arm: str) -> None:
    """Put a cell of that study into the state `failed`."""
    task = TaskFolder(folder.parent / "cells" / f"cell-{arm}")
    assert add_entry(task, 1, "failed", key=arm, failure="bug", error="it broke")
