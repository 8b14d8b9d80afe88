"""Loading takes little more memory than the model has: nothing is built, read or widened twice."""

from pathlib import Path

import pytest

import unnorm
import warm
from unnorm import DyT

LIMIT = 1.2
PROGRAM = """
import re, sys, torch, unnorm
from unnorm.surgery.base import load_base
torch.set_num_threads(1)
unnorm.load({small!r}, {base!r})  # whatever libraries load on first use is there before the count begins

def peak():
    status = open("/proc/self/status").read()
    return [int(re.search(name + r":\\s+(\\d+)", status)[1]) * 1024 for name in ("VmRSS", "VmHWM")]

open("/proc/self/clear_refs", "w").write("5")  # the high-water mark begins again
before = peak()[0]
model = unnorm.load({large!r}, {base!r}{options})
print((peak()[1] - before) / sum(t.nbytes for t in {{t.data_ptr(): t for t in model.state_dict().values()}}.values()))
"""


def big_model(dtype, layers: int = 24):
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(
        "llama",
        hidden_size=512,
        num_hidden_layers=layers,
        num_attention_heads=8,
        num_key_value_heads=8,
        intermediate_size=1024,
        vocab_size=32_000,
        max_position_embeddings=256,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype)).eval()


@pytest.fixture(scope="module")
def artefacts(tmp_path_factory):
    """dtype -> the folder of a small and a large artefact; each is made when it is asked for first."""
    made: dict[str, Path] = {}

    def folder(dtype: str) -> Path:
        if dtype not in made:
            made[dtype] = tmp_path_factory.mktemp(dtype)
            for name, layers in (("small", 1), ("large", 24)):
                model = big_model(dtype, layers)
                unnorm.swap_(model, DyT(), calibrate_on=None)
                unnorm.save(model, made[dtype] / name, shard="50MB")
        return made[dtype]

    return folder


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's account of memory")
@pytest.mark.parametrize(("dtype", "options"), [("float32", ""), ("bfloat16", ""), ("bfloat16", ", device_map='auto'")])
def test_peak_memory_at_load(dtype, options, artefacts):
    folder = artefacts(dtype)
    program = PROGRAM.format(small=str(folder / "small"), large=str(folder / "large"), base=None, options=options)
    done = warm.run(program)
    assert done.returncode == 0, done.stderr
    ratio = float(done.stdout.split()[-1])
    assert 0.3 < ratio <= LIMIT  # weights that were not touched yet may still lie on disk alone
