"""benchmarks/real.py from end to end, on a tiny model and made-up text: it is meant for machines that are lent for
minutes."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

LENGTH = 512


def made(folder: Path) -> tuple[Path, Path]:
    """A base and a TEXT.npz."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    config = LlamaConfig(vocab_size=256, num_key_value_heads=2, max_position_embeddings=LENGTH, **sizes)
    LlamaForCausalLM(config).save_pretrained(folder / "base")
    random, arrays = np.random.default_rng(0), {}
    for part, rows in (("train", 20), ("instructions", 4), ("novels", 4)):
        arrays[f"{part}|ids"] = random.integers(0, 256, (rows, LENGTH)).astype(np.uint16)
        arrays[f"{part}|places"] = np.tile(np.arange(LENGTH), (rows, 1)).astype(np.uint16)
        arrays[f"{part}|tokens"] = np.full(rows, LENGTH, np.uint16)
        if part != "train":
            arrays[f"{part}|answers"] = np.ones((rows, LENGTH), bool)
    np.savez_compressed(folder / "text.npz", **arrays)
    return folder / "base", folder / "text.npz"


@pytest.fixture
def real(scripts):
    """The module, which sets how PyTorch multiplies."""
    import real

    precision = torch.get_float32_matmul_precision()
    yield real
    torch.set_float32_matmul_precision(precision)


def test_rows_are_kept_as_they_are_done_and_left_out_where_time_is_up(real, tmp_path):
    base, text = made(tmp_path)
    wanted = ["straightened-attention-1.6M", "dyt-lora64-1.6M"]

    def rows(name: str, budget: float) -> dict[str, dict]:
        real.run(str(base), text, tmp_path / name, budget, wanted, 0.001, {})
        lines = (tmp_path / name / "rows.jsonl").read_text().splitlines()
        return {row["row"]: row for row in map(json.loads, lines)}

    found = rows("out", 600.0)
    assert list(found) == [wanted[0], f"{wanted[0]}, folded", wanted[1]]
    assert all("failed" not in row and row["novels_tokens"] > 2000 for row in found.values())
    assert found[f"{wanted[0]}, folded"]["folded"] == {"folded away": 3, "left": 2}
    assert "skipped" in rows("late", 10.0)[wanted[1]], "a row needs some seconds more than its tokens do"
