"""Tasks of EleutherAI's lm-evaluation-harness on a model in memory, swapped or not (extra `lm-eval`)."""

from collections.abc import Sequence
from typing import Any

from unnorm.foundation.errors import DataError, SettingsError, first_line


def run_tasks(
    model: Any, tokenizer: Any, tasks: Sequence[str], *, limit: int | None = None, batch_size: int = 8, seed: int = 0
) -> dict[str, dict[str, Any]]:
    """Task -> metric -> value, with the harness's own standard errors and versions.

    limit: examples a task. Raises `SettingsError` if the harness is not installed, `DataError` if it cannot run a task.
    """
    try:
        from lm_eval import simple_evaluate
        from lm_eval.models.huggingface import HFLM
    except ImportError as error:
        raise SettingsError("tasks need lm-evaluation-harness: pip install 'unnorm[lm-eval]'.") from error
    was_training = model.training
    try:
        found = simple_evaluate(
            model=HFLM(pretrained=model.eval(), tokenizer=tokenizer, batch_size=batch_size),
            tasks=list(tasks),
            limit=limit,
            random_seed=seed,
            numpy_random_seed=seed,
            torch_random_seed=seed,
            fewshot_random_seed=seed,
        )
    except Exception as error:  # an unknown task, a data set that cannot be had: each raises its own kind
        raise DataError(f"the harness cannot run {', '.join(tasks)}: {first_line(error)}") from error
    finally:
        model.train(was_training)
    versions = found["versions"]
    return {
        task: {**{name: value for name, value in metrics.items() if name != "alias"}, "version": versions.get(task)}
        for task, metrics in found["results"].items()
    }
