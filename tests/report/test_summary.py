import dataclasses

from report.views import study
from unnorm.report.summary import grounds


def test_a_reference_that_learned_nothing_is_named_with_its_losses():
    made = study(seeds=(0, 1))
    assert not any("learned nothing" in line for line in grounds(made))
    cells = [
        dataclasses.replace(cell, result={**cell.result, "start_eval_loss": 3.0, "eval_loss": 3.25})
        if (cell.arm, cell.strategy) in {("original", "full"), ("dyt", "frozen")}
        else cell
        for cell in made.cells
    ]
    (line,) = [line for line in grounds(dataclasses.replace(made, cells=cells)) if "learned nothing" in line]
    assert line.startswith("Under full, original itself learned nothing: its held-out loss went from 3.0000 to 3.2500")
