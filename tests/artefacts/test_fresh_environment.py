"""A package in an environment that has torch and transformers, and no unnorm."""

import json
import subprocess
import sys
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

import torch
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import unnorm
from artefacts.test_save_load import logits
from conftest import tiny_model, tokens
from unnorm.artefacts.package import package
from unnorm.norms.derf import Derf

PROGRAM = """
import importlib.util, json, sys, torch
assert all(importlib.util.find_spec(name) is None for name in ("unnorm", "peft", "accelerate", "datasets"))
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


def environment_with(folder: Path, wanted: tuple[str, ...]) -> Path:
    """A virtual environment with links to these installed distributions and to what they require, and nothing else; its
    Python. As pip would install it, without a download of a gigabyte."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    for name in required(wanted):
        distribution = metadata.distribution(name)
        home = Path(str(distribution.locate_file("")))
        for top in {file.parts[0] for file in distribution.files or ()} - {"..", "__pycache__"}:
            link = packages / top
            if not link.exists() and (home / top).exists():
                link.symlink_to(home / top)
    return folder / "bin" / "python"


def required(wanted: Iterable[str]) -> set[str]:
    """The distributions and everything that they require here, by their canonical names."""
    found: set[str] = set()
    left = list(wanted)
    while left:
        name = canonicalize_name(left.pop())
        if name not in found:
            found.add(name)
            requirements = [Requirement(text) for text in metadata.distribution(name).requires or ()]
            left += [r.name for r in requirements if r.marker is None or r.marker.evaluate({"extra": ""})]
    return found


def test_equal_logits_and_text_without_unnorm(tmp_path, tokenizer):
    model = tiny_model("gpt_neox")
    unnorm.swap_(model, Derf(alpha="channel"), calibrate_on=tokens())
    unnorm.save(model, tmp_path / "a", tokenizer)
    package(tmp_path / "a", tmp_path / "p")
    python = environment_with(tmp_path / "fresh", ("torch", "transformers"))
    command = [str(python), "-c", PROGRAM, str(tmp_path / "p"), json.dumps(tokens().tolist())]
    cache = {"HF_HOME": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1", "PATH": ""}
    done = subprocess.run(command, capture_output=True, text=True, env=cache, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    torch.testing.assert_close(torch.tensor(found["logits"]), logits(model), rtol=1e-5, atol=1e-5)
    prompt = tokenizer("red stone", return_tensors="pt")
    answer = model.generate(**prompt, max_new_tokens=12, do_sample=False)[0]
    assert found["text"] == tokenizer.decode(answer)
