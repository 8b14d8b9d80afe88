"""The reference study: what its file says, and the whole of it in small against a hub on this machine."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from hub_server import Hub, serve
from hub_stand_ins import MOVED, data_sets, models
from unnorm.study.spec import parse_spec
from unnorm.study.view import read_study

RECIPE = Path(__file__).parents[2] / "recipes" / "reference" / "study.yaml"
SMALL = {"tokens": 3000}


@pytest.fixture(scope="module")
def recipe():
    return yaml.safe_load(RECIPE.read_text())


def test_lora_on_attention_projections_is_018_percent_of_distilgpt2(recipe):
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from unnorm.tuning.settings import LoraSettings
    from unnorm.tuning.strategies import apply_strategy

    (for_distilgpt2,) = [o["set"] for o in recipe["overrides"] if o["where"] == {"model": "distilgpt2"}]
    config = AutoConfig.for_model("gpt2", n_layer=6, n_embd=768, n_head=12, n_positions=1024, vocab_size=50257)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
        lora = LoraSettings(**recipe["training"]["lora"] | for_distilgpt2["training"]["lora"])
        _, trainable = apply_strategy(model, "frozen", site_paths=[], lora=lora, seed=42)
    assert trainable.total_parameters - trainable.trainable_parameters == 81_912_576
    assert trainable.trainable_parameters == 6 * 8 * (768 + 3 * 768)
    assert f"{trainable.trainable_parameters / trainable.total_parameters:.2%}" == "0.18%"


def in_small(recipe, **changes):
    """The recipe with few tokens, three of its arms (the recovered one in one place alone, instead of the bare one), a
    judge that is at hand and nothing timed; the rest as it stands."""
    training = {key: value for key, value in recipe["training"].items() if key != "epochs"} | SMALL
    after = {
        "completions": recipe["after"]["completions"] | {"max_new_tokens": 4},
        "judge": {"kind": "likelihood", "model": "distilgpt2"},
    }
    overrides = [each for each in recipe["overrides"] if each["where"].get("arm") != "dyt-plain"]
    (learns,) = [each for each in overrides if each["where"] == {"arm": "dyt-recovered"}]
    recover = learns["set"]["arm"]["recover"] | {"tokens": 1024, "held_out_tokens": 300}
    short = {"recover": recover, "calibrate": {"tokens": 1024}}
    overrides[overrides.index(learns)] = {**learns, "set": {"arm": short}}
    return {
        **recipe,
        "overrides": overrides,
        "arms": ["original", "dyt-bare", "dyt-recovered"],
        "exclude": [
            {"arm": "dyt-recovered", "model": recipe["models"][1:]},
            {"arm": "dyt-recovered", "dataset": ["sharegpt", "rewild-reduced"]},
            {"arm": "dyt-bare", "model": "distilgpt2", "dataset": "alpaca"},
        ],
        "training": training,
        "after": after,
        **changes,
    }


def test_the_recipe_is_what_the_readme_says(recipe):
    cells = parse_spec(RECIPE.read_text(), "study.yaml").cells()
    assert len(cells) == 3 * 3 * 5 * 3 * 3
    assert all(cell.epochs == 3 and cell.rows_per_step() == 16 for cell in cells)
    for cell in cells:
        assert cell.training.lora.targets == ["c_attn" if cell.model == "distilgpt2" else "query_key_value"]
        if cell.arm.id in ("dyt-plain", "dyt-bare"):
            assert cell.arm.norm["alpha_init"] == (1.0 if "410m" in cell.model else 0.5)
        recovery = cell.arm.recover
        assert (recovery is not None) is (cell.arm.id == "dyt-recovered")
        assert recovery is None or (recovery.tokens, recovery.data) == (30_000_000, ("alpaca", "sharegpt"))
    templates = {(cell.model, cell.data.template) for cell in cells if cell.arm.recover}
    assert len(templates) == 6  # starts


@pytest.mark.slow
def test_the_study_in_small_from_the_hub_interrupted_and_gone_on_with(recipe, tmp_path):
    small = in_small(recipe, strategies=["selective"], seeds=[42], evaluation={"every_tokens": 100_000, "tokens": 300})
    file, ledger = tmp_path / "study.yaml", tmp_path / "studies"
    file.write_text(yaml.safe_dump(small))
    large = ("EleutherAI/pythia-410m", "model.safetensors")
    held = Hub({**models(), **data_sets()}, moved=MOVED, troubles={large: [("hold", 20_000)]})
    command = [sys.executable, "-m", "unnorm", "study", "run", str(file), "--ledger", str(ledger)]
    with serve(held) as served:
        environment = {**os.environ, "HF_ENDPOINT": served.endpoint, "HF_HOME": str(tmp_path / "hub"),
                       "UNNORM_CACHE": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "0"}  # fmt: skip
        killed = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
        assert served.held.wait(240)
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        served.let_go.set()
        assert not (ledger / "reference").exists()  # nothing starts before all that it needs is there
        fetched = arrived(served)
        assert "distilbert/distilgpt2/model.safetensors" in fetched
        assert "HuggingFaceH4/mt_bench_prompts/data/train-00000-of-00001.parquet" in fetched
        served.asked.clear()

        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900)
        assert done.returncode == 0, done.stderr
        assert arrived(served) == {"/".join(large)}  # what had arrived whole is not asked for again
    view = read_study(ledger / "reference")
    assert [cell.state for cell in view.cells] == ["done"] * 3 * 3 * 2
    assert view.models == recipe["models"]
    assert view.datasets == ["alpaca", "sharegpt", "rewild-reduced"]
    assert view.audit["matched"] is True
    assert len(view.pairs) == 9
    (start,) = view.starts
    assert (start.state, start.arms, start.data) == ("done", ["dyt-recovered"], ["alpaca", "sharegpt"])
    assert all(pair.judge for pair in view.pairs)
    for cell in view.cells:
        assert cell.result["train_tokens"] >= SMALL["tokens"]
        asked = [(c["prompt_id"], c["turn"]) for c in cell.completions]
        assert asked == [("81", 0), ("81", 1), ("82", 0), ("82", 1)]

    offline = {**environment, "HF_HUB_OFFLINE": "1", "HF_ENDPOINT": "http://127.0.0.1:9"}
    again = subprocess.run([*command, "--json"], env=offline, capture_output=True, text=True, timeout=300)
    assert again.returncode == 0, again.stderr
    assert "18 cells: 18 finished before, 0 to run" in again.stderr
    assert {row["state"] for row in json.loads(again.stdout)} == {"done"}


def arrived(served):
    """The large files that were sent."""
    paths = [path for method, path, _ in served.asked if method == "GET" and path.startswith("/cdn/")]
    return {path.split("/", 3)[3] for path in paths}
