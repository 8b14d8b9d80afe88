"""The table of cells: a row each, with what it ended with and what it took."""

from unnorm.report.wording import signed
from unnorm.study.slices import Place
from unnorm.study.tables import rows_of
from unnorm.study.view import StudyView

FILTERS = ("model", "data", "strategy", "arm", "state")
"""The columns whose values one may choose from."""


def cells_table(study: StudyView) -> list[list[str]]:
    """Head and rows, names up to `arm` and numbers after it. A cell that is not done has its names and its state."""
    places = [name for name, of in (("model", study.models), ("dataset", study.datasets)) if len(of) > 1]
    speeds = other_speeds(study)
    head = [*("data" if name == "dataset" else name for name in places), "strategy", "arm", "seed", "state"]
    lines = [[*head, "start loss", "end loss", "gap", "accuracy", "tokens", "trainable", "tokens/s"]]
    for cell, row in zip(study.cells, rows_of(study), strict=True):
        names = [*(row[name] for name in places), row["strategy"], row["arm"], str(row["seed"]), row["state"]]
        if row["state"] != "done":
            lines.append([*names, *("" for _ in range(7))])
            continue
        against = study.beside(cell)
        speed = "not compared" if row["cell"] in speeds else f"{row['tokens_per_second']:,.0f}"
        lines.append(
            [
                *names,
                f"{row['start_eval_loss']:.4f}",
                f"{row['eval_loss']:.4f}",
                signed(row["eval_loss"] / against.result["eval_loss"] - 1) if against and against.result else "–",
                f"{row['eval_token_accuracy']:.1%}",
                f"{row['train_tokens']:,}",
                f"{row['trainable_parameters']:,}",
                speed,
            ]
        )
    return lines


def other_speeds(study: StudyView) -> dict[str, str]:
    """Cell -> why its tokens a second do not compare with the reference's; only of cells of which that is so."""
    known = {Place.of(comparison): comparison for comparison in study.audit["comparisons"]}
    lines = {cell.cell: known.get(cell.place, {}).get("speed") for cell in study.cells}
    return {cell: "; ".join(why) for cell, why in lines.items() if why}
