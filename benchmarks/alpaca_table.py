"""Run benchmarks/alpaca-neox-4m.yaml and write its table, figures and results into results/alpaca-neox-4m/.

    python benchmarks/alpaca_table.py [--ledger studies]

Resumable: cells that are done in the ledger are not run again.
"""

import argparse
import os
import shutil
from pathlib import Path

from machine import SHARED, machine_line
from unnorm.report.page import write_report
from unnorm.study.run_study import run_study
from unnorm.study.spec import read_spec
from unnorm.study.view import StudyView

HERE = Path(__file__).parent
HEADER = """# Alpaca on the stand-in base `neox-4m`

1,000,000 training tokens a cell (length 256, 4,096 tokens a step, bf16 autocast, LoRA r = 8 at 3e-3, full at 4e-4,
seed 0), loss on answers, held-out loss in nats per token over {held_out:,} answer tokens, in fp32. `neox-4m` is a
stand-in of 4.2M parameters, not a model that anybody uses: read the gaps, not the losses. One seed: no intervals.

Made by `python benchmarks/alpaca_table.py`. {machine}.

| strategy | arm | start loss | end loss | gap to original | token accuracy | trainable parameters |
|---|---|---|---|---|---|---|
"""


def table(study: StudyView) -> str:
    results = {(cell.strategy, cell.arm): cell.result for cell in study.cells if cell.result is not None}
    lines, held_out = [], 0
    for strategy in study.strategies:
        for arm in study.arms:
            result = results[strategy, arm]
            held_out = result["eval_tokens"]
            gap = result["eval_loss"] / results[strategy, "original"]["eval_loss"] - 1
            lines.append(
                f"| {strategy} | {arm} | {result['start_eval_loss']:.4f} | {result['eval_loss']:.4f} | "
                f"{'' if arm == 'original' else f'{gap:+.2%}'} | {result['eval_token_accuracy']:.2%} | "
                f"{result['trainable_parameters']:,} |"
            )
    return HEADER.format(held_out=held_out, machine=machine_line()) + "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ledger", type=Path, default=Path("studies"))
    parser.add_argument("--out", type=Path, default=HERE / "results" / "alpaca-neox-4m")
    arguments = parser.parse_args()
    os.environ.setdefault("UNNORM_SHARED", str(SHARED))
    spec, text = read_spec(HERE / "alpaca-neox-4m.yaml")
    study = run_study(spec, text, arguments.ledger, say=print)
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "README.md").write_text(table(study))
    write_report(study, study.folder / "report")
    shutil.copy(study.folder / "results.csv", arguments.out / "results.csv")
    shutil.copytree(study.folder / "report" / "figures", arguments.out / "figures", dirs_exist_ok=True)
    print(table(study))


if __name__ == "__main__":
    main()
