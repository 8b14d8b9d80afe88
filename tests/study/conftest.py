"""One small study that ran in one go, for all who compare with it."""

from pathlib import Path

import pytest

from study.small_study import run_text, study_text


@pytest.fixture(scope="session")
def small(bases, data_file, tmp_path_factory):
    """(study text, ledger) of a study that ran in one go, with completions."""
    ledger = tmp_path_factory.mktemp("ledger")
    text = study_text(bases["gpt2"], data_file, after={"completions": {"prompts": "builtin", "max_new_tokens": 4}})
    long_prompts = Path(data_file).parent / "prompts.jsonl"
    long_prompts.write_text('{"prompt_id": "a", "category": "c", "instruction": "Join red and blue"}\n')
    text = text.replace("builtin", str(long_prompts))
    run_text(text, ledger)
    return text, ledger
