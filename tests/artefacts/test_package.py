"""A package is loaded by transformers alone: equal logits for every architecture and norm, by the tools people use."""

import json
import re
import warnings

import pytest
import torch
import yaml
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer

import unnorm
from artefacts.test_norm_code import OWN, own
from artefacts.test_save_load import CLOSE, EXACT, adapter, logits, shaken
from conftest import tiny_model, tokens
from surgery.architectures import CONFIGS, architecture, architecture_tokens
from unnorm import DyT
from unnorm.artefacts.loading import check
from unnorm.artefacts.package import package, push
from unnorm.foundation.errors import ArtefactError, ModelError, SettingsError
from unnorm.norms.derf import Derf
from unnorm.norms.spec import known_norms, spec_from
from unnorm.surgery.base import load_base
from unnorm.surgery.swap import record_of


@pytest.fixture(autouse=True)
def own_module_cache(tmp_path_factory, monkeypatch):
    """transformers copies a package's code to a cache of the user's before it runs it: here, to one of the test's."""
    folder = str(tmp_path_factory.mktemp("modules"))
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", folder)
    monkeypatch.syspath_prepend(folder)


def loaded(folder, auto=AutoModelForCausalLM, **options):
    return auto.from_pretrained(folder, trust_remote_code=True, **options)


def artefact(tmp_path, model=None, tokenizer=None, spec=None):
    model = model if model is not None else tiny_model("gpt2")
    unnorm.swap_(model, spec or DyT(), calibrate_on=tokens())
    unnorm.save(model, tmp_path / "a", tokenizer)
    return tmp_path / "a"


@pytest.mark.parametrize("name", list(CONFIGS))
def test_every_architecture(name, tmp_path):
    model, ids = architecture(name), architecture_tokens()
    unnorm.swap_(model, DyT(), calibrate_on=None)
    unnorm.save(model, tmp_path / "a")
    package(tmp_path / "a", tmp_path / "p")
    auto = AutoModelForMaskedLM if name == "bert" else AutoModelForCausalLM
    theirs = loaded(tmp_path / "p", auto)
    torch.testing.assert_close(logits(theirs, ids), logits(model, ids), **EXACT)
    torch.testing.assert_close(logits(unnorm.load(tmp_path / "p"), ids), logits(model, ids), **EXACT)
    theirs.save_pretrained(tmp_path / "again")
    torch.testing.assert_close(logits(loaded(tmp_path / "again", auto), ids), logits(model, ids), **EXACT)


@pytest.mark.parametrize("norm", known_norms())
def test_every_norm(norm, tmp_path):
    folder = artefact(tmp_path, tiny_model("llama"), spec=spec_from({"norm": norm}))
    package(folder, tmp_path / "p")
    torch.testing.assert_close(logits(loaded(tmp_path / "p")), logits(unnorm.load(folder)), **EXACT)


def test_a_norm_of_the_users_own(tmp_path, monkeypatch):
    model = tiny_model("llama")
    unnorm.swap_(model, {"final": own(tmp_path, monkeypatch, OWN), "*": Derf()}, calibrate_on=None)
    unnorm.save(model, tmp_path / "a")
    package(tmp_path / "a", tmp_path / "p")
    torch.testing.assert_close(logits(loaded(tmp_path / "p")), logits(model), **EXACT)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_keeps_norms_in_fp32(dtype, tmp_path):
    folder = artefact(tmp_path, tiny_model("llama").to(dtype))
    package(folder, tmp_path / "p")
    for options in ({}, {"dtype": dtype}):
        model = loaded(tmp_path / "p", **options)
        torch.testing.assert_close(logits(model), logits(unnorm.load(folder)), **EXACT)
        assert model.dtype == dtype
        assert model.model.layers[0].input_layernorm.alpha.dtype == torch.float32
    assert {p.dtype for p in loaded(tmp_path / "p", dtype=torch.float32).parameters()} == {torch.float32}


def test_shards_and_devices(tmp_path):
    folder = artefact(tmp_path)
    package(folder, tmp_path / "p", shard="40KB")
    assert len(list((tmp_path / "p").glob("model-*.safetensors"))) > 2
    model = loaded(tmp_path / "p", device_map="auto")
    torch.testing.assert_close(logits(model), logits(unnorm.load(folder)), **EXACT)
    assert model.lm_head.weight is model.transformer.wte.weight
    assert check(tmp_path / "p").difference == 0


def test_a_head_that_was_tied_by_hand_is_not_drawn_anew(tmp_path):
    model = tiny_model("llama")
    model.config.tie_word_embeddings = False
    model.lm_head.weight = model.model.embed_tokens.weight
    package(artefact(tmp_path, model), tmp_path / "p")
    torch.testing.assert_close(logits(loaded(tmp_path / "p")), logits(model), **EXACT)
    torch.testing.assert_close(logits(unnorm.load(tmp_path / "p")), logits(model), **EXACT)


def test_an_adapter_is_merged(bases, tmp_path):
    model = adapter(bases["llama"], True)
    unnorm.save(model, tmp_path / "a")
    package(tmp_path / "a", tmp_path / "p")
    torch.testing.assert_close(logits(loaded(tmp_path / "p")), logits(model), **CLOSE)
    assert "is merged into the weights" in (tmp_path / "p" / "README.md").read_text()


@pytest.mark.parametrize("target", ["wte", "lm_head"])
def test_an_adapter_of_one_of_two_tied_weights_is_merged_into_that_one_alone(target, bases, tmp_path):
    model = load_base(bases["gpt2"])
    assert model.lm_head.weight is model.transformer.wte.weight
    unnorm.swap_(model, DyT(), calibrate_on=tokens())
    model = shaken(get_peft_model(model, LoraConfig(target_modules=["c_attn", target])))
    unnorm.save(model, tmp_path / "a")
    package(tmp_path / "a", tmp_path / "p")
    for found in (loaded(tmp_path / "p"), unnorm.load(tmp_path / "p")):
        torch.testing.assert_close(logits(found), logits(model), **CLOSE)


def test_an_adapter_that_cannot_be_merged(bases, tmp_path):
    model = load_base(bases["llama"])
    unnorm.swap_(model, DyT(), calibrate_on=tokens())
    unnorm.save(get_peft_model(model, LoraConfig(target_modules=["q_proj"], lora_bias=True)), tmp_path / "a")
    with pytest.raises(ModelError, match=r"cannot be merged into the weights: .*--keep-adapters"):
        package(tmp_path / "a", tmp_path / "p")
    package(tmp_path / "a", tmp_path / "p", adapters="keep")


def two_adapters(bases, tmp_path):
    model = adapter(bases["llama"], True)
    model.add_adapter("second", LoraConfig(target_modules=["q_proj"]))
    model.set_adapter("second")
    unnorm.save(shaken(model), tmp_path / "a")
    return model


def test_one_of_several_adapters_is_merged(bases, tmp_path):
    model = two_adapters(bases, tmp_path)
    with pytest.raises(SettingsError, match=r"several adapters .*default, second.*Name one"):
        package(tmp_path / "a", tmp_path / "p")
    with pytest.raises(SettingsError, match="no adapter 'third'"):
        package(tmp_path / "a", tmp_path / "p", adapter="third")
    package(tmp_path / "a", tmp_path / "p", adapter="second")
    torch.testing.assert_close(logits(loaded(tmp_path / "p")), logits(model), **CLOSE)


def test_adapters_are_kept_beside_the_swapped_base(bases, tmp_path):
    from peft import AutoPeftModelForCausalLM, PeftModel

    model = two_adapters(bases, tmp_path)
    package(tmp_path / "a", tmp_path / "p", adapters="keep")
    for name in ("default", "second"):
        model.set_adapter(name)
        place = tmp_path / "p" / "adapters" / name
        theirs = PeftModel.from_pretrained(loaded(tmp_path / "p"), place)
        torch.testing.assert_close(logits(theirs), logits(model), **EXACT)
        theirs = AutoPeftModelForCausalLM.from_pretrained(place, trust_remote_code=True)
        torch.testing.assert_close(logits(theirs), logits(model), **EXACT)
    assert check(tmp_path / "p").difference == 0


def test_it_is_never_taken_for_the_original(tmp_path):
    """Not without the flag, and not by the class of its base, nor after a user has saved it again."""
    from transformers import AutoConfig, GPT2Config, GPT2LMHeadModel

    package(artefact(tmp_path), tmp_path / "p")
    loaded(tmp_path / "p").save_pretrained(tmp_path / "again")
    for folder in (tmp_path / "p", tmp_path / "again"):
        for auto in (AutoModelForCausalLM, AutoConfig):
            with pytest.raises(ValueError, match="trust_remote_code"):
                auto.from_pretrained(folder, trust_remote_code=False)
        with pytest.raises(OSError, match="needs-an-Auto-class-and-trust_remote_code"):
            GPT2LMHeadModel.from_pretrained(folder)
        # Where the base has the sizes that its class has by default, only the guard stands in the way.
        config = GPT2Config.from_pretrained(folder)
        assert config.transformers_weights == "needs-an-Auto-class-and-trust_remote_code.safetensors"


def test_the_code_of_a_package_is_not_run_by_unnorm(tmp_path):
    package(artefact(tmp_path), tmp_path / "p")
    code = tmp_path / "p" / "modeling_unnorm.py"
    code.write_text("raise SystemExit('ran')\n" + code.read_text())
    with pytest.raises(ArtefactError, match=r"modeling_unnorm\.py is longer than it was"):
        unnorm.load(tmp_path / "p")


def test_generation_is_the_same(tmp_path, tokenizer):
    folder = artefact(tmp_path, tokenizer=tokenizer)
    package(folder, tmp_path / "p")
    options = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": 0}
    ours = unnorm.load(folder).generate(tokens(2, 8), **options)
    assert torch.equal(loaded(tmp_path / "p").generate(tokens(2, 8), **options), ours)
    again = AutoTokenizer.from_pretrained(tmp_path / "p")
    assert again("red stone")["input_ids"] == tokenizer("red stone")["input_ids"]


def test_a_pipeline_loads_it_and_warns_of_nothing(tmp_path, tokenizer, capfd):
    from transformers import pipeline

    folder = artefact(tmp_path, tokenizer=tokenizer)
    package(folder, tmp_path / "p")
    capfd.readouterr()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        theirs = pipeline("text-generation", model=str(tmp_path / "p"), trust_remote_code=True, device="cpu")
        (found,) = theirs("red stone", max_new_tokens=6, do_sample=False, return_full_text=False)
    said = re.sub(r"[^\n\r]*it/s\]", "", "".join(capfd.readouterr()))  # the bars of loading
    assert said.strip() == ""
    ids = torch.tensor([tokenizer("red stone")["input_ids"]])
    ours = unnorm.load(folder).generate(ids, max_new_tokens=6, do_sample=False, pad_token_id=0)[0, ids.shape[1] :]
    assert found["generated_text"] == tokenizer.decode(ours, skip_special_tokens=True)


def test_a_trainer_of_the_users_own_trains_saves_and_resumes_it(tmp_path):
    from transformers import Trainer, TrainingArguments

    package(artefact(tmp_path, tiny_model("gpt_neox")), tmp_path / "p")
    rows = [{"input_ids": row, "labels": row} for row in tokens(8, 16)]

    def train(steps: int, resume: bool):
        arguments = TrainingArguments(
            output_dir=str(tmp_path / "t"),
            max_steps=steps,
            save_steps=2,
            per_device_train_batch_size=2,
            report_to=[],
            use_cpu=True,
            disable_tqdm=True,
            learning_rate=1e-2,
            lr_scheduler_type="constant",
        )
        trainer = Trainer(loaded(tmp_path / "p"), arguments, train_dataset=rows)
        trainer.train(resume_from_checkpoint=resume)
        return trainer

    train(2, False)
    trainer = train(4, True)
    assert trainer.state.global_step == 4
    trained = trainer.model.eval()
    assert trained.gpt_neox.final_layer_norm.alpha != loaded(tmp_path / "p").gpt_neox.final_layer_norm.alpha
    trainer.save_model(tmp_path / "mine")
    torch.testing.assert_close(logits(loaded(tmp_path / "mine")), logits(trained), **EXACT)
    torch.testing.assert_close(logits(loaded(tmp_path / "t" / "checkpoint-4")), logits(trained), **EXACT)


def test_an_adapter_trained_on_a_package_names_it_as_its_base(tmp_path):
    from peft import PeftModel

    package(artefact(tmp_path, tiny_model("llama")), tmp_path / "p")
    model = shaken(get_peft_model(loaded(tmp_path / "p"), LoraConfig(target_modules=["q_proj"])))
    model.save_pretrained(tmp_path / "own")
    assert json.loads((tmp_path / "own" / "adapter_config.json").read_text())["base_model_name_or_path"] == str(
        tmp_path / "p"
    )
    theirs = PeftModel.from_pretrained(loaded(tmp_path / "p"), tmp_path / "own")
    torch.testing.assert_close(logits(theirs), logits(model), **EXACT)


def test_the_model_card(tmp_path, bases, tokenizer):
    model = tiny_model("gpt2")
    model.config._name_or_path = "someone/tiny-gpt2"
    unnorm.swap_(model, {"final": None, "*": DyT()}, calibrate_on=tokens())
    unnorm.save(model, tmp_path / "a")
    numbers = {"held-out loss": 3.21987, "tokens": 123456, "bad | `name`\n": "<b>|\n|</b>"}
    package(tmp_path / "a", tmp_path / "my-model", numbers=numbers)
    text = (tmp_path / "my-model" / "README.md").read_text()
    head = yaml.safe_load(text.split("---")[1])
    assert head["base_model"] == "someone/tiny-gpt2"
    assert head["library_name"] == "transformers"
    assert "dyt" in head["tags"]
    assert "`someone/tiny-gpt2` (GPT2LMHeadModel) with 4 of its norms replaced." in text
    assert "| held-out loss | 3.22 |" in text
    assert "| tokens | 123,456 |" in text
    assert "<b>" not in text
    assert all(len(re.findall(r"(?<!\\)\|", line)) in (0, 3, 5) for line in text.splitlines())
    package(tmp_path / "a", tmp_path / "bare")
    assert "Its gap to the original was not measured" in (tmp_path / "bare" / "README.md").read_text()


def test_the_card_says_which_norm_is_where(tmp_path):
    model = tiny_model("gpt2")
    unnorm.swap_(model, {"mlp": DyT(), "*": unnorm.FixedScale(center=False)}, calibrate_on=tokens())
    unnorm.save(model, tmp_path / "a")
    package(tmp_path / "a", tmp_path / "p")
    text = (tmp_path / "p" / "README.md").read_text()
    assert re.search(r"^\| mlp \| layernorm \| dyt \(.*\) \| 2 \|$", text, re.MULTILINE)
    assert re.search(r"^\| attention, final \| layernorm \| fixedscale \(.*\) \| 3 \|$", text, re.MULTILINE)


def test_the_card_of_a_recovered_model_tells_gap_tokens_and_data(tmp_path):
    model = tiny_model("gpt2")
    unnorm.swap_(model, DyT(), calibrate_on=tokens())
    record = record_of(model)
    record.measured = {"gap": 0.0123, "loss": 3.1, "original_loss": 3.0623, "kl": 0.021, "tokens": 20000}
    data = [{"name": "alpaca", "tokens": 900, "passes": 1}, {"name": "/home/me/rows.json", "tokens": 100, "passes": 2}]
    record.recovered = {"tokens": 1000, "train": "all", "data": data}
    unnorm.save(model, tmp_path / "a")
    package(tmp_path / "a", tmp_path / "p")
    text = (tmp_path / "p" / "README.md").read_text()
    sentence = (
        "The original was distilled into it, from 1,000 tokens of alpaca (900), rows.json (100). What learnt: all."
    )
    assert sentence in text
    assert "| held-out gap to the original | +1.23% |" in text
    assert "| held-out loss (nats a token) | 3.1000; the original: 3.0623 |" in text
    assert "| measured on (tokens) | 20,000 |" in text
    assert "/home/me" not in text


def test_the_card_names_the_package_as_its_reader_will(tmp_path):
    package(artefact(tmp_path), tmp_path / "p", name="me/mine")
    card = (tmp_path / "p" / "README.md").read_text()
    assert "# me/mine" in card
    assert 'AutoModelForCausalLM.from_pretrained("me/mine", trust_remote_code=True)' in card


def test_the_card_does_not_tell_where_a_base_lay(tmp_path, bases):
    unnorm.save(adapter(bases["gpt2"], False), tmp_path / "a")
    package(tmp_path / "a", tmp_path / "p")
    for file in ("README.md", "modeling_unnorm.py", "config.json", "unnorm.json"):
        assert str(tmp_path.parent) not in (tmp_path / "p" / file).read_text()


def test_what_cannot_be_packaged(tmp_path):
    from transformers import GPT2LMHeadModel

    class Mine(GPT2LMHeadModel):
        pass

    unnorm.save(tiny_model("gpt2"), tmp_path / "plain")
    with pytest.raises(SettingsError, match="nothing is swapped"):
        package(tmp_path / "plain", tmp_path / "p")
    from unnorm.artefacts.package import model_code

    model = Mine(tiny_model("gpt2").config)
    unnorm.swap_(model, DyT(), calibrate_on=None)
    with pytest.raises(ModelError, match="not a class of transformers"):
        model_code(model)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("precious")
    with pytest.raises(ArtefactError, match="not replaced"):
        package(artefact(tmp_path), tmp_path / "full")


class FakeHub:
    """Records what the hub's client would be asked to do."""

    calls: list

    def create_repo(self, repo, **options):
        self.calls.append(("create", repo, options))

    def upload_folder(self, *, repo_id, folder_path, commit_message):
        self.calls.append(("upload", repo_id, folder_path))
        return f"https://hub/{repo_id}"


def test_push_uses_the_hubs_own_client(tmp_path, monkeypatch, bases):
    FakeHub.calls = []
    monkeypatch.setattr("huggingface_hub.HfApi", FakeHub)
    two_adapters(bases, tmp_path)
    with pytest.raises(SettingsError, match="is no package"):
        push(tmp_path / "a", "me/mine")
    package(tmp_path / "a", tmp_path / "p", adapters="keep")
    (tmp_path / "p" / ".gitattributes").write_text("*.safetensors filter=lfs")  # as in a clone
    assert push(tmp_path / "p", "me/mine") == "https://hub/me/mine"
    assert FakeHub.calls == [
        ("create", "me/mine", {"private": True, "exist_ok": True}),
        ("upload", "me/mine", str(tmp_path / "p")),
    ]
    config = json.loads((tmp_path / "p" / "adapters" / "second" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "me/mine"
    assert check(tmp_path / "p").difference == 0  # the account was brought up to date
