"""Two tasks of lm-evaluation-harness as a folder that needs no hub: the tasks of results/real/two-cores.md.

    python benchmarks/task_files.py --lambada lambada_test.jsonl --blimp BLIMP/data --out TASKS

lambada_test.jsonl is OpenAI's version of the test passages (`{"text": ...}`), BLIMP/data the folder of the 67 sets of
https://github.com/alexwarstadt/blimp. A study uses them by `tasks: {names: [...], folder: TASKS}`. `lambada_openai`
asks as the harness's own task does. `blimp_sample` has five pairs of each set, and its score is none of BLiMP's.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import yaml

PAIRS_OF_A_SET, APART = 5, 200
ACCURACY = {"metric": "acc", "aggregation": "mean", "higher_is_better": True}
LAMBADA: dict[str, Any] = {
    "output_type": "loglikelihood",
    "doc_to_text": "{{text.split(' ')[:-1]|join(' ')}}",
    "doc_to_target": "{{' '+text.split(' ')[-1]}}",
    "metric_list": [{"metric": "perplexity", "aggregation": "perplexity", "higher_is_better": False}, ACCURACY],
}
BLIMP: dict[str, Any] = {
    "output_type": "multiple_choice",
    "doc_to_text": "",
    "doc_to_target": 0,
    "doc_to_choice": "{{[sentence_good, sentence_bad]}}",
    "num_fewshot": 0,
    "metric_list": [ACCURACY],
}


def write(out: Path, name: str, settings: dict[str, Any], rows: list[dict[str, str]]) -> None:
    """The task `name` and its data, in the folder `out`."""
    (out / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": f"{name}.jsonl"}}, "test_split": "test"}
    (out / f"{name}.yaml").write_text(yaml.safe_dump({"task": name, **data, **settings}, sort_keys=False))
    print(f"{name}: {len(rows):,} questions")


def lambada(path: Path) -> list[dict[str, str]]:
    return [{"text": json.loads(line)["text"]} for line in path.read_text().splitlines()]


def blimp(folder: Path) -> list[dict[str, str]]:
    """Pair by pair of each set in turn, so that the first ones are of all sets."""
    sets = [[json.loads(line) for line in path.read_text().splitlines()] for path in sorted(folder.glob("*.jsonl"))]
    kept = ("UID", "sentence_good", "sentence_bad")
    return [{key: pairs[n * APART][key] for key in kept} for n in range(PAIRS_OF_A_SET) for pairs in sets]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lambada", type=Path, required=True)
    parser.add_argument("--blimp", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    write(arguments.out, "lambada_openai", LAMBADA, lambada(arguments.lambada))
    write(arguments.out, "blimp_sample", BLIMP, blimp(arguments.blimp))


if __name__ == "__main__":
    main()
