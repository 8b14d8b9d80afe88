"""Tiny bases of the three families, a tokenizer and data, made once and offline; a cell takes seconds."""

import gc
import json
import os
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import settings

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
torch.set_num_threads(1)
# The same examples in every run. Others: HYPOTHESIS_PROFILE=random.
settings.register_profile("same", derandomize=True)
settings.register_profile("random", derandomize=False)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))

FAMILIES = ("gpt_neox", "gpt2", "llama")
VOCABULARY = 384
CONTEXT = 64


def tiny_config(family: str):
    from transformers import AutoConfig

    common = {"vocab_size": VOCABULARY, "bos_token_id": 0, "eos_token_id": 0}
    if family == "gpt2":
        return AutoConfig.for_model(
            "gpt2",
            n_embd=32,
            n_layer=2,
            n_head=2,
            n_positions=CONTEXT,
            attn_pdrop=0.0,
            embd_pdrop=0.0,
            resid_pdrop=0.0,
            **common,
        )
    settings = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "max_position_embeddings": CONTEXT,
        **common,
    }
    if family == "llama":
        settings |= {"num_key_value_heads": 1, "tie_word_embeddings": True}
    return AutoConfig.for_model(family, **settings)


def tiny_model(family: str, seed: int = 0, attention: str = "sdpa"):
    """A random model whose norms have seen some life: γ and β off their start, activations of different scales."""
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(tiny_config(family), attn_implementation=attention).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            leaf = name.split(".")[-2]
            if "norm" in leaf or leaf.startswith("ln_"):
                parameter.add_(0.3 * torch.randn_like(parameter))
            elif parameter.ndim == 2:
                parameter.mul_(4.0)
    return model


def tokens(rows: int = 4, length: int = 32, seed: int = 0) -> torch.Tensor:
    return torch.randint(1, VOCABULARY, (rows, length), generator=torch.Generator().manual_seed(seed))


def packed_positions(*rows) -> torch.Tensor:
    """Positions [B, T] of packed rows, each of texts of these lengths."""
    return torch.stack([torch.cat([torch.arange(n) for n in row]) for row in rows])


def kl(model, ids: torch.Tensor, reference: torch.Tensor) -> float:
    """KL of the model's next-token distributions to log-probabilities [B, T, V], in nats a row."""
    with torch.no_grad():
        found = model(ids).logits.log_softmax(-1)
    return float(torch.nn.functional.kl_div(found, reference, log_target=True, reduction="batchmean"))


def alpaca_rows(count: int = 160) -> list[dict[str, str]]:
    words = ("red", "blue", "green", "stone", "river", "cloud", "apple", "lamp")
    rows = []
    for i in range(count):
        a, b = words[i % 8], words[(i // 8 + 3 * i) % 8]
        rows.append(
            {"instruction": f"Join {a} and {b} {i}", "input": a if i % 3 == 0 else "", "output": f"{a} {b} {i}"}
        )
    return rows


@pytest.fixture(scope="session", autouse=True)
def _cache(tmp_path_factory):
    """A cache of the tests' own: neither theirs nor the user's finds the other's."""
    os.environ["UNNORM_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module", autouse=True)
def _libraries_are_there_to_stay():
    """What is imported by now is not searched for garbage any longer: a cell collects twice, and most of a tiny cell's
    time was the walk through half a million objects of torch and transformers."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def attention_calls(monkeypatch) -> list[tuple[int, int, bool]]:
    """(queries, keys, whether there was a mask) of each of PyTorch's attentions, from now on."""
    seen = []
    attention = torch.nn.functional.scaled_dot_product_attention

    def attend(query, key, value, attn_mask=None, **options):
        seen.append((query.shape[2], key.shape[2], attn_mask is not None))
        return attention(query, key, value, attn_mask=attn_mask, **options)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", attend)
    return seen


@pytest.fixture
def ready_python(monkeypatch) -> str:
    """Whatever starts Python here starts one that has imported torch and transformers already; its path."""
    import warm

    path = warm.interpreter()
    monkeypatch.setattr(sys, "executable", path)
    return path


@pytest.fixture(scope="session")
def tokenizer():
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = [f"### Instruction:\n{r['instruction']}\n\n### Response:\n{r['output']}" for r in alpaca_rows()]
    made.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<|endoftext|>", pad_token="<|endoftext|>")


@pytest.fixture(scope="session")
def bases(tmp_path_factory, tokenizer) -> dict[str, str]:
    """Family -> folder of a tiny base with its tokenizer."""
    folders = {}
    for family in FAMILIES:
        folder = tmp_path_factory.mktemp(family)
        tiny_model(family).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        folders[family] = str(folder)
    return folders


@pytest.fixture(scope="session")
def data_file(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("data") / "rows.json"
    path.write_text(json.dumps(alpaca_rows()))
    return str(path)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data and stand-in bases; the test is skipped where it is absent."""
    folder = Path(os.environ.get("UNNORM_SHARED", Path(__file__).parent.parent / ".." / "shared"))
    if not (folder / "bases").is_dir():
        pytest.skip(f"no stand-in bases at {folder}; set UNNORM_SHARED")
    return folder
