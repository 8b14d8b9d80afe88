"""A folder with a task file of lm-evaluation-harness: four questions to choose an answer to, data beside it."""

import json
from pathlib import Path

QUESTIONS = [
    {"question": "Join red and", "choices": ["blue", "stone", "the river"], "answer": 0},
    {"question": "Join lamp and", "choices": ["cloud", "apple"], "answer": 1},
    {"question": "red blue", "choices": ["green", "green stone"], "answer": 1},
    {"question": "river", "choices": ["lamp", "cloud", "red"], "answer": 2},
]
TASK = """\
task: tiny_choice
dataset_path: json
dataset_kwargs: {data_files: {test: data/questions.json}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: "{{choices}}"
doc_to_target: "{{answer}}"
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
  - {metric: acc_norm, aggregation: mean, higher_is_better: true}
metadata: {version: 1.0}
"""


def write_tasks(folder: Path, questions=QUESTIONS) -> Path:
    (folder / "data").mkdir(parents=True, exist_ok=True)
    (folder / "data" / "questions.json").write_text(json.dumps(questions))
    (folder / "tiny_choice.yaml").write_text(TASK)
    return folder
