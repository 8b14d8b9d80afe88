"""What one cell takes by the model's size: formulas, and the memory of real steps to hold them against.

Run as a program it measures one point and prints it; `scale.py cells` does so in a process each.

    python benchmarks/scale_cell.py BASE full|lora|recover|blockwise ROWS LENGTH
"""

import json
import sys
import time
from typing import Any, Literal, NamedTuple

Kind = Literal["full", "lora", "recover", "blockwise"]
KINDS: tuple[Kind, ...] = ("full", "lora", "recover", "blockwise")
TRAINED = 16
"""Bytes of a weight that learns: itself, its gradient, AdamW's two moments, in fp32."""
LOGITS = 2**26
"""That a distillation holds at once."""
HELD = 4
"""Bytes of a weight that does not: bases are held in fp32."""
RANK = 8


class Shape(NamedTuple):
    """A decoder: inner, the width inside its MLP; gated, whether that is done twice and multiplied; key_values, their
    width, all heads together."""

    name: str
    width: int
    layers: int
    inner: int
    vocabulary: int
    key_values: int
    gated: bool = True
    tied: bool = False

    @property
    def block(self) -> int:
        """Parameters of one block, norms left out."""
        attention = 2 * self.width * (self.width + self.key_values)
        return attention + (3 if self.gated else 2) * self.width * self.inner

    @property
    def parameters(self) -> int:
        return self.layers * self.block + (1 if self.tied else 2) * self.vocabulary * self.width

    @property
    def adapters(self) -> int:
        """Parameters of LoRA on every linear layer of the blocks."""
        w, i, k = self.width, self.inner, self.key_values
        return RANK * self.layers * (2 * (w + w) + 2 * (w + k) + (3 if self.gated else 2) * (w + i))


SHAPES = (
    Shape("SmolLM2-135M", 576, 30, 1_536, 49_152, 192, tied=True),
    Shape("Llama 3.2 1B", 2_048, 16, 8_192, 128_256, 512, tied=True),
    Shape("Llama 3.2 3B", 3_072, 28, 8_192, 128_256, 1_024, tied=True),
    Shape("Llama 3.1 8B", 4_096, 32, 14_336, 128_256, 1_024),
    Shape("Qwen2.5 14B", 5_120, 48, 13_824, 152_064, 1_024),
    Shape("Qwen2.5 32B", 5_120, 64, 27_648, 152_064, 1_024),
    Shape("Llama 3.1 70B", 8_192, 80, 28_672, 128_256, 1_024),
)


class Need(NamedTuple):
    """Bytes on the device: of weights with what belongs to them, activations, logits; host: of the computer's memory,
    for what does not lie on the device."""

    weights: int
    activations: int
    logits: int
    host: int = 0

    @property
    def device(self) -> int:
        return self.weights + self.activations + self.logits


def need(shape: Shape, kind: Kind, tokens: int, *, number: int = 2, stream_tokens: int = 0) -> Need:
    """What a step over `tokens` tokens takes. number: bytes of an activation (2 under autocast, 4 in fp32).
    stream_tokens: that a recovery block by block learns from."""
    copies = number if number < HELD else 0  # of weights, by autocast
    block = tokens * kept(shape, kind, number) * number
    logits = tokens * shape.vocabulary * (12 if number == HELD else 14)
    if kind == "full":
        return Need(shape.parameters * (TRAINED + copies), shape.layers * block, logits)
    if kind == "lora":
        weights = shape.parameters * (HELD + copies) + shape.adapters * TRAINED
        return Need(weights, shape.layers * block, logits)
    if kind == "recover":  # and the original beside it, which keeps nothing; logits come some thousand tokens at a time
        weights = shape.parameters * (TRAINED + HELD + copies)
        chunk = min(tokens, LOGITS // shape.vocabulary) * shape.vocabulary * 4 * 7
        return Need(weights, shape.layers * block, chunk, shape.parameters * HELD)
    streams = 2 * stream_tokens * shape.width * 4
    return Need(shape.block * (TRAINED + copies), int(1.5 * block), 0, 2 * shape.parameters * HELD + streams)


def kept(shape: Shape, kind: Kind, number: int) -> int:
    """Numbers that a block keeps of a token for its backward pass: as `tuning/memory_need.py` counts them, and with
    LoRA the inputs of its matrices, after dropout."""
    inner = (4 if shape.gated else 2) * shape.inner
    lora = (6 if shape.gated else 3) * shape.width + shape.inner if kind == "lora" else 0
    masks = 1 if number == HELD else 1.5  # of dropout: a byte each
    return int((10 if number == HELD else 16) * shape.width + inner + masks * lora)


def operations(shape: Shape, kind: Kind, tokens: int, length: int) -> float:
    """Floating-point operations to learn from `tokens` tokens in rows of `length`: 2 a weight forward, 4 backward, of
    which LoRA needs 2; a recovery runs the original beside it."""
    each = {"full": 6, "lora": 4, "recover": 8, "blockwise": 8}[kind]
    attention = 2 * shape.layers * shape.width * length  # forward, a token, two products over half of the row
    return tokens * each * (shape.parameters + attention / 2)


def measure(base: str, kind: Kind, rows: int, length: int) -> dict[str, Any]:
    """Bytes of this process at most, beyond what it had before there was a model, in two steps on random tokens."""
    import torch

    from unnorm.foundation.memory import forget_peak, memory_in_use, peak_memory
    from unnorm.norms.dyt import DyT
    from unnorm.surgery.base import load_base
    from unnorm.surgery.swap import swap_

    _warm_up()
    device = torch.device("cpu")
    ids = torch.randint(1, 4_000, (4 * rows, length), generator=torch.Generator().manual_seed(0))
    before = memory_in_use(device)
    model = load_base(base)
    forget_peak(device)
    started = time.perf_counter()
    told: int | None = None
    if kind in ("full", "lora"):
        _train(model, kind, ids[:rows])
    else:
        original = load_base(base)
        swap_(model, DyT(alpha="channel"), calibrate_on=ids[:1])
        forget_peak(device)
        started = time.perf_counter()
        told = _recover(model, original, kind, ids, rows)
    peak = peak_memory(device) - before
    return {
        "base": base.rstrip("/").rsplit("/", 1)[-1],
        "kind": kind,
        "tokens_a_step": rows * length,
        "measured_bytes": peak,
        "told_bytes": told,
        "formula": _formula_of(model.config, kind, rows * length, 4 * rows * length),
        "seconds": time.perf_counter() - started,
    }


def _train(model: Any, kind: Kind, ids: Any) -> None:
    import torch

    from unnorm.metrics.token_sums import token_sums
    from unnorm.surgery.base import under_adapters
    from unnorm.surgery.sites import find_sites
    from unnorm.tuning.parameter_groups import parameter_groups
    from unnorm.tuning.settings import LoraSettings
    from unnorm.tuning.strategies import apply_strategy

    paths = [site.path for site in find_sites(model)]
    strategy: Any = "full" if kind == "full" else "frozen"
    model, _ = apply_strategy(model, strategy, site_paths=paths, lora=LoraSettings(r=RANK), seed=0)
    model.train()
    optimizer = torch.optim.AdamW(parameter_groups(model, 0.01))
    batch = {"input_ids": ids, "labels": ids}
    for _ in range(2):
        sums = token_sums(model, under_adapters(model).get_output_embeddings(), batch)
        (sums.nats / sums.tokens).backward()
        optimizer.step()
        optimizer.zero_grad()


def _recover(model: Any, original: Any, kind: Kind, ids: Any, rows: int) -> int:
    """What the product itself says beforehand, in bytes."""
    from unnorm.tuning.blockwise import recover_blockwise_
    from unnorm.tuning.memory_need import bytes_needed
    from unnorm.tuning.recover import recover_
    from unnorm.tuning.recover_settings import RecoverSettings

    tokens = rows * ids.shape[1]
    if kind == "blockwise":
        report = recover_blockwise_(
            model,
            original,
            ids,
            steps=1,
            batch_tokens=tokens,
            device="cpu",
            precision="fp32",
            norm_learning_rate=2e-3,
            learning_rate=3e-4,
            quiet=True,
        )
        return report.needed_bytes
    told = bytes_needed(model, original, RecoverSettings(precision="fp32"), rows, ids.shape[1])
    recover_(
        model, original, ids, tokens=2 * tokens, batch_tokens=tokens, precision="fp32", held_out=ids[:1], quiet=True
    )
    return told


def _warm_up() -> None:
    """What is loaded once, whatever the model: no part of what a cell takes."""
    import torch
    import transformers.trainer  # noqa: F401

    import unnorm.tuning.blockwise
    import unnorm.tuning.recover
    import unnorm.tuning.trainer  # noqa: F401

    layer = torch.nn.Linear(8, 8)
    layer(torch.ones(1, 8)).sum().backward()
    torch.optim.AdamW(layer.parameters()).step()


def _formula_of(config: Any, kind: Kind, tokens: int, stream_tokens: int) -> dict[str, int]:
    found = need(shape_of(config), kind, tokens, number=4, stream_tokens=stream_tokens)
    return found._asdict()


def shape_of(config: Any) -> Shape:
    """The shape that a model's configuration tells."""
    heads, kind = config.num_attention_heads, config.model_type
    width = config.hidden_size
    inner = getattr(config, "intermediate_size", None) or getattr(config, "n_inner", None) or 4 * width
    key_values = width * getattr(config, "num_key_value_heads", heads) // heads
    tied = bool(getattr(config, "tie_word_embeddings", False))
    gated = kind not in ("gpt2", "gpt_neox")
    return Shape(kind, width, config.num_hidden_layers, inner, config.vocab_size, key_values, gated, tied)


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))))  # type: ignore[arg-type]
