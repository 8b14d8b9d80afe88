"""Three arms × three strategies on the real Alpaca file and the stand-in base `neox-4m`: results/alpaca.md.

    python benchmarks/alpaca_table.py [--tokens 1000000] [--ledger FOLDER] [--threads N]

Resumable: cells that are done in the ledger are not run again.
"""

import argparse
from pathlib import Path

import torch
from machine import SHARED, machine_line

from unnorm.data.prepare import DataSettings
from unnorm.study.arms import arm_from
from unnorm.study.cell import CellSettings, cell_of, run_cell
from unnorm.study.ledger import cell_folder
from unnorm.study.workbench import Workbench
from unnorm.tuning.settings import DEFAULT_LEARNING_RATE, STRATEGIES, TrainingSettings

ARMS = ("original", "dyt-bare", "dyt")
HEADER = """# Alpaca on the stand-in base `neox-4m`

{tokens:,} training tokens a cell (length 256, 4,096 tokens a step, bf16 autocast, LoRA r = 8 at 3e-3, full at 4e-4,
seed 0), loss on answers, held-out loss in nats per token over {held_out:,} answer tokens, in fp32. `neox-4m` is a
stand-in of 4.2M parameters, not a model that anybody uses: read the gaps, not the losses.

Made by `python benchmarks/alpaca_table.py`. {machine}.

| strategy | arm | start loss | end loss | gap to original | token accuracy | trainable parameters |
|---|---|---|---|---|---|---|
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=1_000_000)
    parser.add_argument("--ledger", type=Path, default=Path("studies"))
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "alpaca.md")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rows, held_out, bench = [], 0, Workbench()
    for strategy in STRATEGIES:
        results = {}
        for arm in ARMS:
            settings = CellSettings(
                model=str(SHARED / "bases" / "neox-4m"),
                arm=arm_from(arm),
                strategy=strategy,
                data=DataSettings(source="alpaca", path=str(SHARED / "data" / "alpaca" / "alpaca_data.json")),
                training=TrainingSettings(
                    tokens=arguments.tokens, learning_rate=DEFAULT_LEARNING_RATE[strategy], precision="bf16"
                ),
            )
            out = cell_folder(arguments.ledger, settings, cell_of(settings, bench)[0])
            results[arm] = run_cell(
                settings, out, bench=bench, say=lambda text, s=strategy, a=arm: print(f"{s} {a}: {text}")
            )
            held_out = results[arm]["eval_tokens"]
        for arm, result in results.items():
            gap = result["eval_loss"] / results["original"]["eval_loss"] - 1
            rows.append(
                f"| {strategy} | {arm} | {result['start_eval_loss']:.4f} | {result['eval_loss']:.4f} | "
                f"{'' if arm == 'original' else f'{gap:+.2%}'} | {result['eval_token_accuracy']:.2%} | "
                f"{result['trainable_parameters']:,} |"
            )
    text = HEADER.format(tokens=arguments.tokens, held_out=held_out, machine=machine_line()) + "\n".join(rows) + "\n"
    arguments.out.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
