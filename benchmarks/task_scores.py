"""Scores of several models on tasks of a folder, before any fine-tuning: a table of results/real/two-cores.md.

python benchmarks/task_scores.py MODEL... --folder TASKS --tasks lambada_openai blimp_sample --limit 335
"""

import argparse
from pathlib import Path

from unnorm.artefacts.loading import open_model
from unnorm.evaluation.lm_eval import answer
from unnorm.evaluation.lm_eval_tasks import load_tasks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", help="artefacts or plain models; each is computed in fp32")
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--tasks", nargs="+", required=True)
    parser.add_argument("--limit", type=int)
    arguments = parser.parse_args()
    tasks = load_tasks(arguments.tasks, arguments.folder)
    for name in arguments.models:
        found = answer(*open_model(name), tasks, limit=arguments.limit).metrics
        for task, metrics in found.items():
            said = (f"{key} {value:.4f}" for key, value in metrics.items() if isinstance(value, float))
            print(f"{name} {task}: {', '.join(said)}", flush=True)


if __name__ == "__main__":
    main()
