"""Models of the hub, loaded from a server on this machine by a process that knows no other way: names, bad days."""

import json
import os
import subprocess
import sys

import pytest
from safetensors.torch import load

from hub_server import Hub, Repository, commit_of, serve
from hub_stand_ins import MOVED, models, pythia
from unnorm.foundation.hashing import hash_tensors

TOKEN = "hf_aSecretThatNoOneMayEverSee"
CHUNK = 10 * 1024 * 1024  # what the hub's client fetches before it counts it as arrived

PROGRAM = """
import json, sys
from unnorm.cli.main import run
from unnorm.foundation.errors import UnnormError
from unnorm.foundation.hashing import hash_tensors
from unnorm.surgery.base import load_base, load_tokenizer
found = {}
for name in json.loads(sys.argv[1]):
    try:
        model, tokenizer = load_base(name), load_tokenizer(name)
    except UnnormError as error:
        found[name] = str(error)
        continue
    found.setdefault(name, {"name": model.config._name_or_path, "kind": model.config.model_type,
                            "hash": hash_tensors(model.state_dict()), "ids": tokenizer("Join red")["input_ids"],
                            "tokenizer": type(tokenizer).__name__, "eos": tokenizer.eos_token})
found["codes"] = [run(arguments) for arguments in json.loads(sys.argv[2])]
print(json.dumps(found))
"""


def without_safetensors(repository: Repository) -> Repository:
    return Repository({path: content for path, content in repository.files.items() if path != "model.safetensors"})


def hub() -> Hub:
    held = models()
    small = held["EleutherAI/pythia-14m"]
    held["EleutherAI/pythia-14m"] = Repository(small.files, revisions={"step/3": pythia(16).files})
    large = pythia(64, vocabulary=50304)
    assert len(large.files["model.safetensors"]) > CHUNK + 10**6
    held |= {
        "somebody/gated": Repository(small.files, gated=True),
        "somebody/pickled": without_safetensors(small),
        "somebody/slow-days": Repository(small.files),
        "somebody/large": large,
        "somebody/broken": Repository(small.files),
        "somebody/talkative": Repository(small.files),
    }
    troubles = {
        ("somebody/slow-days", "config.json"): [503],
        ("somebody/slow-days", "model.safetensors"): [429, ("slow", 0.3)],
        ("somebody/large", "model.safetensors"): [("cut", CHUNK + 500_000)],
        ("somebody/broken", "model.safetensors"): [("cut", 1000)] * 6,
        ("somebody/talkative", "config.json"): [400],
    }
    return Hub(held, moved=MOVED, troubles=troubles)


NAMES = [
    "distilgpt2",
    "EleutherAI/pythia-14m",
    "EleutherAI/pythia-410m",
    "EleutherAI/pythia-14m@step/3",
    "EleutherAI/pythia-14m@step/4",
    "nobody/nothing",
    "somebody/gated",
    "somebody/pickled",
    "somebody/slow-days",
    "somebody/large",
    "somebody/broken",
    "somebody/talkative",
]


@pytest.fixture(scope="module")
def tried(tmp_path_factory):
    """(hub, what a process found, what it printed): it has a token, and tries NAMES and then two commands."""
    folder = tmp_path_factory.mktemp("hub")
    study = {"name": "s", "models": ["somebody/gated"], "datasets": ["alpaca"], "arms": ["original"]}
    (folder / "study.yaml").write_text(json.dumps(study))
    commands = [
        ["study", "run", str(folder / "study.yaml"), "--ledger", str(folder / "ledger")],
        ["sites", "nobody/nothing"],
        ["sites", "somebody/broken"],
    ]
    with serve(hub()) as served:
        environment = {**os.environ, "HF_ENDPOINT": served.endpoint, "HF_HOME": str(folder), "HF_HUB_OFFLINE": "0",
                       "HF_HUB_DISABLE_TELEMETRY": "1", "HF_TOKEN": TOKEN}  # fmt: skip
        command = [sys.executable, "-c", PROGRAM, json.dumps(NAMES), json.dumps(commands)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert not (folder / "ledger").exists()
    return served, json.loads(done.stdout.splitlines()[-1]), done.stdout + done.stderr


def weights(repository: Repository) -> str:
    """The hash of a published file's weights as they are loaded: in fp32, without what older transformers left."""
    left = (".attn.bias", ".attention.bias", ".masked_bias", ".inv_freq")
    tensors = {name: t.float() for name, t in load(repository.files["model.safetensors"]).items()}
    kept = {name: t for name, t in tensors.items() if not name.endswith(left)}
    if "transformer.wte.weight" in kept:
        kept["lm_head.weight"] = kept["transformer.wte.weight"]
    return hash_tensors({n.replace("embed_out", "lm_head"): t for n, t in kept.items()})


def test_the_reference_studys_models(tried):
    served, found, _ = tried
    expected = {"distilgpt2": "distilbert/distilgpt2", **{name: name for name in NAMES[1:3]}}
    for name, now in expected.items():
        assert found[name]["hash"] == weights(served.repositories[now]), name
        assert found[name]["name"] == name
        assert found[name]["eos"] == "<|endoftext|>"
    assert [found[name]["kind"] for name in expected] == ["gpt2", "gpt_neox", "gpt_neox"]
    assert [found[name]["tokenizer"] for name in expected] == ["GPT2Tokenizer", "GPTNeoXTokenizer", "GPTNeoXTokenizer"]
    assert not [path for _, path, _ in served.asked if path.endswith(".bin") and "/cdn/" in path]


def test_a_revision_is_another_model_and_is_remembered(tried):
    served, found, _ = tried
    pinned = found["EleutherAI/pythia-14m@step/3"]
    assert pinned["hash"] == weights(Repository(served.repositories["EleutherAI/pythia-14m"].revisions["step/3"]))
    assert pinned["hash"] != found["EleutherAI/pythia-14m"]["hash"]
    assert pinned["name"] == "EleutherAI/pythia-14m@step/3"
    assert found["EleutherAI/pythia-14m@step/4"] == (
        "cannot load the model 'EleutherAI/pythia-14m@step/4': it has no revision 'step/4'. "
        "Give a branch, a tag or a whole commit, as in EleutherAI/pythia-14m@main."
    )


def test_all_files_are_of_the_commit_that_the_name_stood_at(tried):
    served, _, _ = tried
    for repository in ("distilbert/distilgpt2", "EleutherAI/pythia-410m"):
        commit = commit_of(served.repositories[repository].files)
        paths = [path for _, path, _ in served.asked if f"/{repository}/resolve/" in path]
        floating = {path.rpartition("/")[2] for path in paths if f"/resolve/{commit}/" not in path}
        assert floating == {"config.json"}  # asked once, for the commit


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nobody/nothing", "the hub has no model of this name. Check how it is spelt, or give a folder that holds "),
        ("somebody/gated", "it is gated: only accounts that its owner let in may read it. Ask for access at http"),
        ("somebody/gated", "/somebody/gated; the account whose token is set here is not among them"),
        ("somebody/pickled", "it has no safetensors weights, and no others are read."),
        ("somebody/broken", "the download broke off. Run the same again: files that arrived whole are kept."),
        ("somebody/talkative", "cannot load the model 'somebody/talkative': "),
    ],
)
def test_what_cannot_be_had_says_what_to_do(tried, name, message):
    _, found, _ = tried
    assert message in found[name]


def test_bad_days_are_waited_out(tried):
    served, found, _ = tried
    assert found["somebody/slow-days"]["hash"] == found["EleutherAI/pythia-14m"]["hash"]
    assert served.met["somebody/slow-days", "config.json"] == 1
    assert served.met["somebody/slow-days", "model.safetensors"] == 2


def test_a_cut_download_goes_on_where_it_was(tried):
    served, found, _ = tried
    assert found["somebody/large"]["hash"] == weights(served.repositories["somebody/large"])
    ranges = [
        headers.get("range")
        for method, path, headers in served.asked
        if method == "GET" and path.startswith("/cdn/") and "/somebody/large/" in path
    ]
    assert ranges == [None, f"bytes={CHUNK}-"]


def test_exit_codes_and_a_second_run_after_a_broken_one(tried):
    _, found, printed = tried
    assert found["codes"] == [2, 2, 0]  # the last one had broken off before
    assert "study.yaml, line 1: models.0: cannot load the model 'somebody/gated': it is gated" in printed


def test_no_token_is_shown_or_sent_elsewhere(tried):
    served, _, printed = tried
    assert TOKEN not in printed
    assert TOKEN in {headers.get("authorization", "").removeprefix("Bearer ") for _, _, headers in served.asked}
    stored = [headers for _, path, headers in served.asked if path.startswith("/cdn/")]
    assert stored
    assert not [headers for headers in stored if "authorization" in headers]
