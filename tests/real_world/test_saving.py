"""Models as they are when someone saves them: compiled, pruned, adapters disabled or of a kind no artefact holds."""

import pytest
import torch
from peft import LoraConfig, PrefixTuningConfig, PromptTuningConfig, get_peft_model
from safetensors.torch import load_file

import unnorm
from cli.test_main import call, finetune_options
from conftest import tiny_model, tokens
from surgery.architectures import architecture, architecture_tokens
from unnorm import DyT
from unnorm.artefacts.loading import open_model
from unnorm.artefacts.saving import refuse_overwriting
from unnorm.cli.main import run
from unnorm.foundation.errors import ArtefactError
from unnorm.surgery.base import load_base
from unnorm.surgery.dtypes import narrow_, stored_dtype

EXACT = {"rtol": 0, "atol": 0}


def logits(model, ids=None):
    with torch.no_grad():
        return model(input_ids=tokens() if ids is None else ids).logits


def swapped(family="llama", base=None):
    model = load_base(base) if base else tiny_model(family)
    unnorm.swap_(model, DyT(), calibrate_on=tokens())
    return model


def lora(base, **options):
    settings = {"target_modules": ["q_proj"], "task_type": "CAUSAL_LM", "init_lora_weights": False, **options}
    return get_peft_model(swapped(base=base), LoraConfig(**settings)).eval()


@pytest.fixture
def good(tmp_path):
    """A good artefact, and how to see that it is as it was."""
    unnorm.save(swapped(), tmp_path / "m")
    before = {path.name: path.read_bytes() for path in (tmp_path / "m").iterdir()}

    def still() -> bool:
        return before == {path.name: path.read_bytes() for path in (tmp_path / "m").iterdir()}

    return tmp_path / "m", still


@pytest.mark.parametrize("wrap", [torch.compile, torch.nn.DataParallel], ids=["compiled", "parallel"])
def test_of_a_wrapped_model_the_model_itself_is_saved(wrap, good):
    folder, _ = good
    model = swapped()
    with torch.no_grad():
        model.model.embed_tokens.weight.mul_(1.5)
    unnorm.save(wrap(model), folder)
    torch.testing.assert_close(logits(unnorm.load(folder)), logits(model), **EXACT)


def test_a_compiled_model_can_be_swapped_and_swapped_back():
    model = tiny_model("llama")
    before = logits(model)
    compiled = torch.compile(model, backend="eager")
    assert [site.path for site in unnorm.find_sites(compiled)] == [site.path for site in unnorm.find_sites(model)]
    unnorm.swap_(compiled, DyT(), calibrate_on=tokens())
    torch.testing.assert_close(logits(compiled), logits(model), **EXACT)
    assert not torch.allclose(logits(compiled), before)
    unnorm.unswap_(compiled)
    torch.testing.assert_close(logits(compiled), before, **EXACT)


def pruned_after(model):
    model.model.layers = model.model.layers[:1]
    return model


def pruned_with_its_configuration(model):
    model.config.num_hidden_layers = 1
    return pruned_after(model)


def old_norm_again(model):
    model.model.norm = tiny_model("llama").model.norm
    return model


def one_layer_compiled(model):
    model.model.layers[0] = torch.compile(model.model.layers[0])
    return model


def a_class_of_ones_own(model):
    model.__class__ = type("MyLlama", (type(model),), {})
    return model


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (pruned_after, "2 of its 5 swapped sites are gone .*model.layers.1.input_layernorm first"),
        (pruned_with_its_configuration, "2 of its 5 swapped sites are gone"),
        (old_norm_again, r"1 of its 5 swapped sites are gone or hold something else \(model.norm first"),
        (one_layer_compiled, "13 missing, model.layers.0.input_layernorm.alpha first; 13 unknown, .*_orig_mod"),
        (a_class_of_ones_own, "would make a LlamaForCausalLM of this model's configuration, not a MyLlama"),
    ],
)
def test_what_load_would_refuse_is_refused_first(change, message, good):
    folder, still = good
    with pytest.raises(ArtefactError, match=message):
        unnorm.save(change(swapped()), folder)
    assert still()


def test_an_unswapped_model_that_its_configuration_does_not_make(good):
    folder, still = good
    with pytest.raises(ArtefactError, match=r"9 missing, model\.layers\.1\.input_layernorm\.weight first"):
        unnorm.save(pruned_after(tiny_model("llama")), folder)
    resized = tiny_model("llama")
    resized.resize_token_embeddings(400)
    resized.config.vocab_size = 384
    with pytest.raises(ArtefactError, match=r"embed_tokens.weight is \[400, 32\], not \[384, 32\]"):
        unnorm.save(resized, folder)
    assert still()


def test_a_model_pruned_before_the_swap_is_saved(tmp_path):
    model = pruned_with_its_configuration(tiny_model("llama"))
    unnorm.swap_(model, DyT(), calibrate_on=tokens())
    unnorm.save(model, tmp_path / "m")
    torch.testing.assert_close(logits(unnorm.load(tmp_path / "m")), logits(model), **EXACT)


def disabled(model):
    model.disable_adapter_layers()
    return model


def merged(model):
    model.merge_adapter()
    return model


@pytest.mark.parametrize(
    ("change", "message"),
    [(disabled, "adapters of this model are disabled"), (merged, r"is merged into its weights.*unmerge_adapter")],
)
def test_adapters_that_do_not_work_as_they_would_when_loaded(change, message, bases, good):
    folder, still = good
    with pytest.raises(ArtefactError, match=message):
        unnorm.save(change(lora(bases["llama"])), folder)
    assert still()


@pytest.mark.parametrize("kind", [PromptTuningConfig, PrefixTuningConfig])
def test_adapters_that_add_tokens(kind, bases, good):
    folder, still = good
    model = get_peft_model(swapped(base=bases["llama"]), kind(num_virtual_tokens=4, task_type="CAUSAL_LM"))
    with pytest.raises(ArtefactError, match=r"of the kind (PROMPT|PREFIX)_TUNING.*LoRA"):
        unnorm.save(model, folder)
    assert still()


def test_adapters_of_transformers_own(good):
    folder, still = good
    model = swapped()
    model.add_adapter(LoraConfig(target_modules=["q_proj"]))
    with pytest.raises(ArtefactError, match=r"not those of a peft\.PeftModel"):
        unnorm.save(model, folder)
    assert still()


def test_a_name_that_no_manifest_can_hold(bases, good):
    folder, still = good
    model = get_peft_model(swapped(base=bases["llama"]), LoraConfig(target_modules=["q_proj"]), adapter_name="my own")
    with pytest.raises(ArtefactError, match="cannot be saved as an artefact: adapters"):
        unnorm.save(model, folder)
    assert still()


def test_adapters_on_single_tokens(bases, tmp_path):
    for family, targets in (("llama", ["q_proj"]), ("gpt_neox", ["query_key_value"])):  # tied embeddings, and not
        model = swapped(base=bases[family])
        config = LoraConfig(target_modules=targets, trainable_token_indices=[1, 2, 7], init_lora_weights=False)
        model = get_peft_model(model, config).eval()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "trainable_tokens_delta" in name:
                    parameter.add_(torch.randn_like(parameter))
        unnorm.save(model, tmp_path / family)
        loaded = unnorm.load(tmp_path / family)
        torch.testing.assert_close(logits(loaded), logits(model), **EXACT)
        with loaded.disable_adapter(), model.disable_adapter():
            torch.testing.assert_close(logits(loaded), logits(model), **EXACT)


def test_adapters_on_the_parameters_of_experts(tmp_path):
    architecture("mixtral").save_pretrained(tmp_path / "base")
    model = load_base(str(tmp_path / "base"))
    unnorm.swap_(model, DyT(), calibrate_on=architecture_tokens())
    experts = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
    config = LoraConfig(target_modules=["q_proj"], target_parameters=experts, init_lora_weights=False)
    model = get_peft_model(model, config).eval()
    unnorm.save(model, tmp_path / "a")
    loaded = unnorm.load(tmp_path / "a")
    torch.testing.assert_close(logits(loaded, architecture_tokens()), logits(model, architecture_tokens()), **EXACT)


def test_a_base_that_did_change_under_such_adapters_is_still_noticed(bases, good):
    folder, still = good
    model = lora(bases["llama"], trainable_token_indices=[1, 2])
    with torch.no_grad():
        model.get_base_model().model.embed_tokens.token_adapter.base_layer.weight[5, 5] += 1
    with pytest.raises(ArtefactError, match=r"weights under the adapter are not those of .*\(lm_head.weight first"):
        unnorm.save(model, folder)
    assert still()


def test_a_verb_does_not_write_over_an_artefact(good, tmp_path, capsys):
    folder, still = good
    refuse_overwriting(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    refuse_overwriting(tmp_path / "empty")
    with pytest.raises(ArtefactError, match="holds an artefact already"):
        refuse_overwriting(folder)
    (tmp_path / "empty" / "notes.txt").write_text("mine")
    with pytest.raises(ArtefactError, match="is no artefact of unnorm"):
        refuse_overwriting(tmp_path / "empty")
    unnorm.save(swapped(), tmp_path / "other")
    assert run(["package", str(tmp_path / "other"), "--out", str(folder)]) == 2
    assert "holds an artefact already" in capsys.readouterr().err
    assert still()


@pytest.mark.parametrize("family", ["llama", "gpt_neox", "gpt2"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_base_keeps_its_dtype_and_new_norms_are_wide(family, dtype, tmp_path, tokenizer):
    tiny_model(family).to(dtype).save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    name = str(tmp_path / "base")
    assert stored_dtype(name) == dtype
    model = load_base(name)  # in fp32, to compute with
    unnorm.swap_(model, DyT(), calibrate_on=tokens(), correct="readers")
    wide = logits(model)
    assert narrow_(model, stored_dtype(name))
    unnorm.save(model, tmp_path / "m", tokenizer)
    found = {n: t.dtype for n, t in load_file(tmp_path / "m" / "weights.safetensors").items()}
    sites = [site.path for site in unnorm.find_sites(model)]
    assert {d for n, d in found.items() if n.rpartition(".")[0] in sites} == {torch.float32}
    assert {d for n, d in found.items() if n.rpartition(".")[0] not in sites} == {dtype}
    sizes = [(tmp_path / f).stat().st_size for f in ("m/weights.safetensors", "base/model.safetensors")]
    assert sizes[0] < 1.25 * sizes[1]
    opened, _ = open_model(str(tmp_path / "m"))  # wide again, as a plain base is opened
    assert {p.dtype for p in opened.parameters()} == {torch.float32}
    torch.testing.assert_close(logits(opened), wide, rtol=0, atol=0.05 * float(wide.std()))


def test_a_full_fine_tune_of_a_narrow_base_says_that_it_is_saved_wide(capsys, data_file, tokenizer, tmp_path):
    tiny_model("llama").to(torch.bfloat16).save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    options = finetune_options(tmp_path / "base", data_file, tmp_path / "run", "--strategy", "full", "--to", "dyt-bare")
    code, _, err = call(capsys, *options)
    assert code == 0, err
    assert "saved in float32, in which the weights learnt; the base is in bfloat16" in " ".join(err.split())
    assert {p.dtype for p in unnorm.load(tmp_path / "run" / "model").parameters()} == {torch.float32}


def test_what_is_not_narrow_stays_as_it_is(bases):
    model = swapped(base=bases["llama"])
    before = logits(model)
    assert stored_dtype(bases["llama"]) == torch.float32
    assert not narrow_(model, torch.float32)
    torch.testing.assert_close(logits(model), before, **EXACT)


def test_a_model_that_would_not_run_so_stays_wide():
    model = architecture("mamba")
    unnorm.swap_(model, DyT(), calibrate_on=None)
    before = logits(model, architecture_tokens())
    assert not narrow_(model, torch.bfloat16)
    torch.testing.assert_close(logits(model, architecture_tokens()), before, **EXACT)
