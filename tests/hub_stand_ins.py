"""What the reference study loads from the hub, in small: random models and made data under the real names.

Models have the real ones' architecture, kind of tokenizer, file names and file formats (with the leftovers that files
of their age hold); data sets have the real ones' files and columns.
"""

import io
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import torch
from safetensors.torch import save

from conftest import alpaca_rows
from data.known.test_rewild import parts
from hub_server import Repository
from unnorm.data.known import rewild
from unnorm.data.sources import KNOWN

END = "<|endoftext|>"
_VOCABULARY = 384


def parquet(rows: Sequence[dict[str, Any]]) -> bytes:
    out = io.BytesIO()
    pa.parquet.write_table(pa.Table.from_pylist(list(rows)), out)
    return out.getvalue()


def distilgpt2() -> Repository:
    """Its files: safetensors beside a pickle, the vocabulary in two files and in one, no special_tokens_map.json."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=_VOCABULARY, n_positions=512, n_embd=32, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0
    )
    torch.manual_seed(0)
    model = GPT2LMHeadModel(config)
    tensors = {name: tensor for name, tensor in model.state_dict().items() if name != "lm_head.weight"}
    for layer in range(2):  # what older transformers kept of the causal mask
        tensors[f"transformer.h.{layer}.attn.bias"] = torch.ones(512, 512, dtype=torch.bool).tril()[None, None]
    tokenizer = byte_bpe(normalise=False, specials=[END])
    whole = json.loads(tokenizer)["model"]
    merges = "\n".join(" ".join(pair) for pair in whole["merges"])
    return Repository(
        {
            **_model_files(config, tensors),
            "pytorch_model.bin": b"a pickle, which nothing may open",
            "tokenizer.json": tokenizer,
            "tokenizer_config.json": b'{"model_max_length": 512}',
            "vocab.json": json.dumps(whole["vocab"]).encode(),
            "merges.txt": f"#version: 0.2\n{merges}\n".encode(),
        }
    )


def pythia(hidden: int, vocabulary: int = _VOCABULARY) -> Repository:
    """GPT-NeoX in fp16 with a vocabulary that is larger than its tokenizer's, as Pythia's is."""
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    config = GPTNeoXConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=4 * hidden,
        max_position_embeddings=512,
        rotary_pct=0.25,
        use_parallel_residual=True,
        tie_word_embeddings=False,
        bos_token_id=0,
        eos_token_id=0,
        dtype="float16",
    )
    torch.manual_seed(hidden)
    tensors = GPTNeoXForCausalLM(config).half().state_dict()
    for layer in range(2):  # what older transformers kept of the causal mask and of rotary positions
        start = f"gpt_neox.layers.{layer}.attention."
        tensors[start + "bias"] = torch.ones(64, 64, dtype=torch.bool).tril()[None, None]
        tensors[start + "masked_bias"] = torch.tensor(-1e9)
        tensors[start + "rotary_emb.inv_freq"] = torch.ones(hidden // 16)
    special = {"bos_token": END, "eos_token": END, "unk_token": END}
    settings = {**special, "add_prefix_space": False, "tokenizer_class": "GPTNeoXTokenizer"}
    return Repository(
        {
            **_model_files(config, tensors),
            "pytorch_model.bin": b"a pickle, which nothing may open",
            "tokenizer.json": byte_bpe(normalise=True, specials=[END, "<|padding|>"]),
            "tokenizer_config.json": json.dumps(settings).encode(),
            "special_tokens_map.json": json.dumps(special).encode(),
        }
    )


def models() -> dict[str, Repository]:
    """The study's three models under the names that they have today; `MOVED` has the older one of distilgpt2."""
    return {
        "distilbert/distilgpt2": distilgpt2(),
        "EleutherAI/pythia-14m": pythia(32),
        "EleutherAI/pythia-410m": pythia(64),
    }


MOVED = {"distilgpt2": "distilbert/distilgpt2"}


def data_sets() -> dict[str, Repository]:
    """Alpaca, ShareGPT, the three parts of RE-WILD and MT-Bench's prompts, each in the real one's files and columns."""
    rows = parts()
    sharegpt = [
        {
            "id": f"c{i}_0",
            "conversations": [
                {"from": "human", "value": f"Join {row['instruction']}"},
                {"from": "gpt", "value": row["output"]},
            ],
        }
        for i, row in enumerate(alpaca_rows())
    ]
    bench = [
        {"prompt_id": str(81 + i), "category": "writing", "prompt": ["Join red and blue.", "Again."], "reference": []}
        for i in range(2)
    ]
    files = {
        KNOWN["alpaca"].name: {
            "README.md": b"---\nlicense: cc-by-nc-4.0\n---\n",
            "data/train-00000-of-00001.parquet": parquet([{**row, "text": "x"} for row in alpaca_rows()]),
        },
        KNOWN["sharegpt"].name: {
            "ShareGPT_V3_unfiltered_cleaned_split.json": json.dumps(sharegpt).encode(),
            "HTML_cleaned_raw_dataset/other.json": b'[{"not": "to be read"}]',
        },
        rewild.REWILD.parts["wildchat"].where.name: {
            "data/train-00000-of-00002.parquet": parquet(rows["wildchat"][:200]),
            "data/train-00001-of-00002.parquet": parquet(rows["wildchat"][200:]),
        },
        rewild.REWILD.parts["mmlu"].where.name: {
            "data/auxiliary_train-00000-of-00001.parquet": parquet(rows["mmlu"]),
            "data/test-00000-of-00001.parquet": parquet(rows["mmlu"][:2]),
        },
        rewild.REWILD.parts["algebra"].where.name: {"data/train-00000-of-00001.parquet": parquet(rows["algebra"])},
        "HuggingFaceH4/mt_bench_prompts": {"data/train-00000-of-00001.parquet": parquet(bench)},
    }
    return {name: Repository(content, "dataset") for name, content in files.items()}


def byte_bpe(*, normalise: bool, specials: list[str]) -> bytes:
    """tokenizer.json of a byte-level BPE, as GPT-2's is; with Unicode's NFC before it, as GPT-NeoX's is."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

    made = Tokenizer(models.BPE())
    if normalise:
        made.normalizer = normalizers.NFC()
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=_VOCABULARY - 8,
        special_tokens=specials,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator([f"### Response:\n{row['output']}" for row in alpaca_rows()], trainer)
    return made.to_str().encode()


def _model_files(config: Any, tensors: dict[str, torch.Tensor]) -> dict[str, bytes]:
    config.architectures = [{"gpt2": "GPT2LMHeadModel", "gpt_neox": "GPTNeoXForCausalLM"}[config.model_type]]
    with tempfile.TemporaryDirectory() as folder:
        config.save_pretrained(folder)
        content = (Path(folder) / "config.json").read_bytes()
    weights = save({name: tensor.contiguous() for name, tensor in tensors.items()}, {"format": "pt"})
    return {"config.json": content, "model.safetensors": weights}
