"""The tutorials do what they say, in order, as a reader copies them: on a tiny base, with fewer tokens, offline.

A block with a title is a file that the reader writes. A comment before a block says what else it is: `parsed only`, by
`test_commands.py`, as are commands of other programs and those that need the hub; `exit code 1`; or `NAME holds`.
"""

import json
import re
from pathlib import Path

import pytest
import torch

from docs.pages import ROOT, blocks, commands, lines
from unnorm.cli.main import run

TUTORIALS = ROOT / "docs" / "tutorials"
NEEDS_A_HUB = ("--push",)
SMALLER = {
    "10M": "2k",
    "50k": "2k",
    "200_000": "1_024",
    "50_000": "1_024",
    "2048": "256",
    "max_new_tokens: 64": "max_new_tokens: 4",
    "seeds: [0, 1]": "seeds: [0]",
    "--budget 20": "--budget 1",
    "--prompts builtin": "--prompts builtin --max-new-tokens 4",
}


@pytest.fixture(scope="module")
def base(tmp_path_factory, tokenizer) -> str:
    """A tiny Llama with room for the rows that verbs read unless told otherwise."""
    from transformers import AutoModelForCausalLM

    from conftest import tiny_config

    config = tiny_config("llama")
    config.max_position_embeddings = 512
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("tutorials") / "base"
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def reader(base, data_file, tmp_path, monkeypatch):
    """Does what a page says; gives what each command printed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))

    def small(text: str) -> str:
        for model in ("HuggingFaceTB/SmolLM2-135M-Instruct", "EleutherAI/pythia-14m"):
            text = text.replace(model, base)
        text = re.sub(r"(?<=[\s\[])alpaca(?=[\s\]]|$)", data_file, text)
        for told, done in SMALLER.items():
            text = text.replace(told, done)
        return text

    def follow(page: str, but_not: tuple[str, ...] = NEEDS_A_HUB) -> None:
        names: dict[str, object] = {}
        done = 0
        for block in blocks((TUTORIALS / page).read_text()):
            if block.mark == "parsed only":
                continue
            if block.mark.endswith(" holds"):
                assert Path(block.mark.removesuffix(" holds")).read_text() == block.text
            elif block.title:
                Path(block.title).write_text(small(block.text))
            elif block.language == "python":
                exec(compile(block.text, page, "exec"), names)
            elif block.language == "sh":
                code = int(block.mark.removeprefix("exit code ") or 0)
                for line in lines(block):
                    if line.startswith("unnorm ") and not any(option in line for option in but_not):
                        (command,) = commands(f"```sh\n{small(line)}\n```")
                        assert run(command.arguments) == code, line
                        done += 1
        assert done

    return follow


def test_swap_recover_and_prove_your_own_model(reader):
    reader("your-own-model.md")
    assert len(json.loads(Path("recovered/model/unnorm.json").read_text())["sites"]) == 5
    assert len(Path("dyt.jsonl").read_text().splitlines()) == len(Path("original.jsonl").read_text().splitlines()) > 1


def test_a_study_of_your_own(reader):
    first = Path("studies/first-study")
    reader("your-own-study.md")
    assert (first / "report" / "index.html").is_file()
    assert len((first / "results.csv").read_text().splitlines()) == 1 + 3


def test_serve_and_share_a_converted_model(reader, base, data_file):
    swap = ["swap", base, "--to", "dyt", "--calibrate", data_file, "--tokens", "256", "--measure-tokens", "64"]
    assert run([*swap, "--out", "recovered/model"]) == 0
    reader("serve-and-share.md")
    assert (Path("my-model") / "modeling_unnorm.py").is_file()


def test_repair_a_broken_data_set(reader):
    reader("repair-data.md")
    assert "Vienna" in Path("clean.jsonl.rejected.jsonl").read_text()
