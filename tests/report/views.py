"""Made-up studies for the report's tests."""

from pathlib import Path

from unnorm.study.view import CellView, StudyView

ARMS, STRATEGIES = ["original", "dyt-bare", "dyt"], ["frozen", "full"]
SITES = [f"layers.{i}.norm" for i in range(3)]


def loss_of(arm: str, strategy: str, seed: int) -> float:
    return 4.0 + ARMS.index(arm) * 0.3 - STRATEGIES.index(strategy) * 0.2 + 0.01 * ((seed * 7 + len(arm)) % 5)


def cell(arm: str, strategy: str, seed: int, state: str = "done", text: str = "an answer") -> CellView:
    loss = loss_of(arm, strategy, seed)
    moves = 0.0 if strategy == "frozen" else 0.01
    steps = []
    for i in range(1, 9):
        record = {"step": i, "train_tokens": 100 * i, "loss": loss + 1 / i, "grad_norm": 1.0}
        if arm != "original":
            record["alpha"] = {path: 0.2 + j + moves * i for j, path in enumerate(SITES)}
        steps.append(record)
    fit = [
        {"path": p, "r2": 0.9 + 0.01 * j, "alpha": 0.2 + j, "saturation": 0.01, "seconds": 0.1}
        for j, p in enumerate(SITES)
    ]
    return CellView(
        cell=f"{arm}{strategy}{seed}",
        model="tiny",
        dataset="rows",
        arm=arm,
        strategy=strategy,
        seed=seed,
        state=state,
        error="NonFiniteError: at step 3" if state == "failed" else None,
        result={
            "steps": 8,
            "train_tokens": 800,
            "trainable_parameters": 10,
            "total_parameters": 100,
            "start_eval_loss": loss + 1,
            "eval_loss": loss,
            "loss_drop": 0.1,
            "eval_token_accuracy": 0.5,
            "grad_norm_last": 1.0,
            "tokens_per_second": 5.0,
            "wall_seconds": 6.0,
        }
        if state == "done"
        else None,
        steps=steps,
        evaluations=[
            {"step": i, "train_tokens": 100 * i, "loss": loss + (8 - i) / 8, "token_accuracy": 0.5, "tokens": 9}
            for i in (0, 4, 8)
        ],
        calibration={"calibration": {"tokens": 64, "seconds": 0.5, "sites": fit} if arm == "dyt" else None}
        if arm != "original"
        else None,
        completions=[
            {"prompt_id": "a", "category": "c", "turn": 0, "prompt": "Ask", "text": text, "finish_reason": "stop"}
        ],
    )


def study(seeds=(0,), broken: dict | None = None, text: str = "an answer", matched: bool = True) -> StudyView:
    """broken: (arm, strategy, seed) -> state of a cell that is not done."""
    cells = [
        cell(arm, strategy, seed, (broken or {}).get((arm, strategy, seed), "done"), text)
        for seed in seeds
        for arm in ARMS
        for strategy in STRATEGIES
    ]
    comparison = {
        "model": "tiny", "dataset": "rows", "strategy": "frozen", "seed": 0, "arm": "dyt", "against": "original",
        "matched": matched, "differences": [] if matched else ["steps: 8 against 9"],
    }  # fmt: skip
    return StudyView(
        name="made-up",
        folder=Path("nowhere"),
        source="name: made-up\n",
        arms=list(ARMS),
        strategies=list(STRATEGIES),
        models=["tiny"],
        datasets=["rows"],
        seeds=list(seeds),
        cells=cells,
        audit={"matched": matched, "comparisons": [comparison]},
        versions={"torch": "2"},
    )
