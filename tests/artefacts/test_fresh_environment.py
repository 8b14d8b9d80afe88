"""A package in an environment that has torch and transformers, and no unnorm."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import unnorm
from artefacts.test_save_load import logits
from conftest import tiny_model, tokens
from unnorm.artefacts.package import package
from unnorm.norms.derf import Derf

CONSTRAINTS = Path(__file__).parents[2] / "constraints.txt"
PROGRAM = """
import importlib.util, json, sys, torch
assert importlib.util.find_spec("unnorm") is None
from transformers import AutoModelForCausalLM, AutoTokenizer
folder, ids = sys.argv[1], json.loads(sys.argv[2])
torch.set_num_threads(1)
model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
with torch.no_grad():
    logits = model(torch.tensor(ids)).logits
prompt = tokenizer("red stone", return_tensors="pt")
text = tokenizer.decode(model.generate(**prompt, max_new_tokens=12, do_sample=False)[0])
print(json.dumps({"logits": logits.tolist(), "text": text}))
"""


@pytest.mark.slow
def test_equal_logits_and_text_without_unnorm(tmp_path, tokenizer):
    model = tiny_model("gpt_neox")
    unnorm.swap_(model, Derf(alpha="channel"), calibrate_on=tokens())
    unnorm.save(model, tmp_path / "a", tokenizer)
    package(tmp_path / "a", tmp_path / "p")
    fresh = tmp_path / "fresh"
    try:
        subprocess.run([sys.executable, "-m", "venv", str(fresh)], check=True)
        install = [str(fresh / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*install, "--constraint", str(CONSTRAINTS), "torch", "transformers"], check=True)
        command = [str(fresh / "bin" / "python"), "-c", PROGRAM, str(tmp_path / "p"), json.dumps(tokens().tolist())]
        cache = {"HF_HOME": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1", "PATH": ""}
        done = subprocess.run(command, capture_output=True, text=True, env=cache, cwd=tmp_path)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)  # it takes a gigabyte
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    torch.testing.assert_close(torch.tensor(found["logits"]), logits(model), rtol=1e-5, atol=1e-5)
    prompt = tokenizer("red stone", return_tensors="pt")
    answer = model.generate(**prompt, max_new_tokens=12, do_sample=False)[0]
    assert found["text"] == tokenizer.decode(answer)
