"""The table of cells: a row each, with what it ended with and what it took."""

from unnorm.report.wording import signed
from unnorm.study.tables import rows_of
from unnorm.study.view import StudyView

FILTERS = ("model", "data", "strategy", "arm", "state")
"""The columns whose values one may choose from."""


def cells_table(study: StudyView) -> list[list[str]]:
    """Head and rows, names up to `arm` and numbers after it. A cell that is not done has its names and its state."""
    places = [name for name, of in (("model", study.models), ("dataset", study.datasets)) if len(of) > 1]
    ends = {(c.model, c.dataset, c.strategy, c.seed, c.arm): c.result["eval_loss"] for c in study.cells if c.result}
    speeds = other_speeds(study)
    head = [*("data" if name == "dataset" else name for name in places), "strategy", "arm", "seed", "state"]
    lines = [[*head, "start loss", "end loss", "gap", "accuracy", "tokens", "trainable", "tokens/s"]]
    for row in rows_of(study):
        names = [*(row[name] for name in places), row["strategy"], row["arm"], str(row["seed"]), row["state"]]
        if row["state"] != "done":
            lines.append([*names, *("" for _ in range(7))])
            continue
        against = ends.get((row["model"], row["dataset"], row["strategy"], row["seed"], study.reference))
        compared = against and row["arm"] != study.reference
        speed = "not compared" if row["cell"] in speeds else f"{row['tokens_per_second']:,.0f}"
        lines.append(
            [
                *names,
                f"{row['start_eval_loss']:.4f}",
                f"{row['eval_loss']:.4f}",
                signed(row["eval_loss"] / against - 1) if compared else "–",
                f"{row['eval_token_accuracy']:.1%}",
                f"{row['train_tokens']:,}",
                f"{row['trainable_parameters']:,}",
                speed,
            ]
        )
    return lines


def other_speeds(study: StudyView) -> dict[str, str]:
    """Cell -> why its tokens a second do not compare with the reference's; only of cells of which that is so."""
    known = {(c["model"], c["dataset"], c["arm"], c["strategy"], c["seed"]): c for c in study.audit["comparisons"]}
    lines = {
        cell.cell: known.get((cell.model, cell.dataset, cell.arm, cell.strategy, cell.seed), {}).get("speed")
        for cell in study.cells
    }
    return {cell: "; ".join(why) for cell, why in lines.items() if why}
