"""Every block of Python and YAML on a page could be run: calls take these arguments, studies have these keys."""

import ast
import inspect
from typing import Any

import pytest
import yaml

import unnorm
from docs.pages import NAMES, ROOT, blocks
from unnorm.foundation.errors import UnnormError
from unnorm.study.spec import StudyFile, parse_spec
from unnorm.tuning.recover_settings import RecoverSettings

WHOLE = {"name": "page", "models": ["mine"], "datasets": ["alpaca"], "arms": ["original", "dyt-bare"]}


def faults_of_python(code: str) -> list[str]:
    """What is wrong with the calls of public functions in a piece of Python."""
    found = []
    for node in ast.walk(ast.parse(code)):
        if not (isinstance(node, ast.Call) and ast.unparse(node.func).startswith("unnorm.")):
            continue
        called = getattr(unnorm, ast.unparse(node.func).removeprefix("unnorm."))
        signature = inspect.signature(called)
        kinds = {parameter.kind for parameter in signature.parameters.values()}
        known = set(signature.parameters)
        if inspect.Parameter.VAR_KEYWORD in kinds:
            known |= set(RecoverSettings.model_fields)
        unknown = {word.arg for word in node.keywords} - known
        if unknown:
            found.append(f"{ast.unparse(node.func)} has no {sorted(map(str, unknown))}")
        try:
            signature.bind_partial(*node.args)
        except TypeError as error:
            found.append(f"{ast.unparse(node.func)}: {error}")
    return found


def fault_of_yaml(text: str) -> str | None:
    """What is wrong with a study file, or with a part of one that a page shows; None for YAML of another kind."""
    shown = yaml.safe_load(text.replace("...", "tokens: 1024"))
    if not isinstance(shown, dict) or not set(shown) & set(StudyFile.model_fields):
        return None
    if "extends" in shown:
        shown = {key: value for key, value in shown.items() if key != "extends" and value is not None}
    whole: dict[str, Any] = {**WHOLE, **shown}
    try:
        parse_spec(yaml.safe_dump(whole), "page")
    except UnnormError as error:
        return str(error)
    return None


@pytest.fixture(autouse=True)
def _home(tmp_path, monkeypatch):
    """The folder that pages name as a model of one's own."""
    (tmp_path / "models" / "mine").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.mark.parametrize("name", NAMES)
def test_every_block_on_a_page_is_understood(name):
    found = blocks((ROOT / name).read_text())
    python = [block.text for block in found if block.language in ("python", "py")]
    studies = [block.text for block in found if block.language in ("yaml", "yml")]
    assert [fault for code in python for fault in faults_of_python(code)] == []
    assert [fault for text in studies if (fault := fault_of_yaml(text))] == []


def test_mistakes_in_blocks_are_seen():
    assert faults_of_python("unnorm.swap_(model, unnorm.DyT(alpha='channel'), calibrate_on=ids)") == []
    assert faults_of_python("unnorm.recover_(a, b, ids, tokens=5, folder='run')") == []
    assert faults_of_python("unnorm.recover_(a, b, ids, tokns=5)") == ["unnorm.recover_ has no ['tokns']"]
    assert "too many positional arguments" in faults_of_python("unnorm.load(a, b, c, d, e, f)")[0]
    assert fault_of_yaml("task: colours\ntest_split: test") is None
    assert fault_of_yaml("extends: study.yaml\ntraining: {tokens: 1000}") is None
    assert "tokns" in str(fault_of_yaml("training: {tokns: 1000}"))
