"""The Python on the pages that are no tutorial runs as it stands, on a tiny base: what a block leaves open is given."""

from pathlib import Path

import pytest
import torch

import unnorm
from conftest import tiny_config
from docs.pages import ROOT, blocks

HERE = {
    "README.md": "nothing",
    "docs/artefacts.md": "swapped",
    "docs/kernels.md": "swapped",
    "docs/python.md": "plain",
    "docs/recover.md": "swapped",
    "docs/repair.md": "nothing",
    "docs/surgery.md": "plain",
}
"""The page, and what `model` is where a block begins; a block that swaps always begins with a plain one."""
ELSEWHERE = {"docs/extending.md"}  # by test_extending.py
SMALLER = {
    "10_000_000": "256",
    "4096].view(16, 256)": "128].view(4, 32)",
    "steps=80": "steps=2",
    "8192": "64",
    '"cuda"': '"cpu"',
}


@pytest.fixture
def given(tmp_path, monkeypatch, tokenizer):
    """What pages leave open, by name and by file; a function that makes `model`."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    config = tiny_config("llama")
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained("base")
    tokenizer.save_pretrained("base")
    AutoModelForCausalLM.from_pretrained("base").save_pretrained("moved/base")
    ids = torch.randint(1, config.vocab_size, (4, 32), generator=torch.Generator().manual_seed(0))

    def model(swapped):
        made = AutoModelForCausalLM.from_pretrained("base", dtype=torch.float32).eval()
        if swapped:
            unnorm.swap_(made, unnorm.DyT(), calibrate_on=ids)
        return made

    unnorm.save(model(True), "swapped-first/", tokenizer)
    unnorm.package("swapped-first/", "my-model")
    straight = model(False)
    unnorm.swap_(straight, {"mlp": unnorm.DyT(), "*": unnorm.FixedScale(center=False)}, calibrate_on=ids)
    unnorm.save(straight, "straight/model", tokenizer)
    unnorm.save(get_peft_model(model(True), LoraConfig(target_modules=["q_proj"])), "adapter/", tokenizer)
    Path("crawl.json").write_text('[{"id": 1, "text": "whole"}, {"id": 2, "text": "a" "tags": []}, {"id": 3')
    Path("some.txt").write_text("Name a colour. Red is a colour. " * 100)
    names = {
        "unnorm": unnorm, "torch": torch, "Path": Path, "AutoModelForCausalLM": AutoModelForCausalLM, "ids": ids,
        "batches": ids.repeat(40, 1), "tokenizer": tokenizer, "original": model(False),
    }  # fmt: skip
    return names, model


@pytest.mark.parametrize("page", HERE)
def test_the_python_of_a_page_runs(page, given):
    names, model = given
    done = 0
    for block in blocks((ROOT / page).read_text()):
        if block.language != "python" or "@register" in block.text:
            continue
        text = block.text.replace("EleutherAI/pythia-14m", "base")
        for told, less in SMALLER.items():
            text = text.replace(told, less)
        swaps = "swap_(" in text
        fresh = {} if HERE[page] == "nothing" else {"model": model(HERE[page] == "swapped" and not swaps)}
        exec(compile(text, page, "exec"), {**names, **fresh})
        done += 1
    assert done


def test_no_page_with_python_is_forgotten():
    with_python = {
        str(page.relative_to(ROOT))
        for page in [ROOT / "README.md", *ROOT.glob("docs/*.md")]
        if any(block.language == "python" for block in blocks(page.read_text()))
    }
    assert with_python == set(HERE) | ELSEWHERE
