"""How much device memory recovery takes one block at a time, for a Llama of 8B shape with random weights.

    python benchmarks/blockwise_memory.py [--layers 32] [--device cuda] [--rows 20] [--steps 3] [--train all]
    python benchmarks/blockwise_memory.py --tiny --device cpu

Both models, in bf16, and both streams stay in the computer's memory (33 GB with 32 layers); one block at a time is on
the device. So the peak does not depend on the number of layers, and `--layers 4` measures it in less time: what grows
with the layers is the computer's memory and the time. The weights are random and so are the tokens: the losses say
nothing about any real model.
"""

import argparse
import time
from typing import Any

import torch

from machine import machine_line
from unnorm.norms.dyt import DyT
from unnorm.surgery.swap import swap_
from unnorm.tuning.blockwise import recover_blockwise_

SHAPE: dict[str, Any] = {
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
}
TINY: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 224,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 512,
}
LENGTH = 512


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--rows", type=int, default=20, help=f"of {LENGTH} tokens; a tenth is held out")
    parser.add_argument("--steps", type=int, default=3, help="each block")
    parser.add_argument("--batch-tokens", type=int, default=8192)
    parser.add_argument("--train", choices=["all", "norms"], default="all")
    parser.add_argument("--tiny", action="store_true", help="a rehearsal: small layers, fp32")
    options = parser.parse_args()
    shape, dtype = (TINY, torch.float32) if options.tiny else (SHAPE, torch.bfloat16)
    device = torch.device(options.device)
    started = time.perf_counter()
    model, original = llama(shape, options.layers, dtype, swapped=True), llama(shape, options.layers, dtype)
    ids = torch.randint(1, shape["vocab_size"], (options.rows, LENGTH), generator=torch.Generator().manual_seed(0))
    print(machine_line(), flush=True)
    print(f"{options.layers} layers, {size_of(original) / 1e9:.2f}B parameters, made in {seconds(started)}", flush=True)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    started = time.perf_counter()
    report = recover_blockwise_(
        model,
        original,
        ids,
        steps=options.steps,
        batch_tokens=options.batch_tokens,
        norm_learning_rate=2e-3,
        learning_rate=3e-4,
        train=options.train,
        device=device,
        precision="fp32" if options.tiny else "bf16",
    )
    took = time.perf_counter() - started
    each = sum(block.seconds for block in report.blocks) / len(report.blocks)
    print(
        f"train {report.train}: {len(report.blocks)} blocks, {options.steps} steps of {options.batch_tokens} tokens "
        f"each, in {took:.1f} s ({each:.1f} s learning a block)"
    )
    print(f"estimated before the start: {report.needed_bytes / 1e9:.2f} GB on {device}")
    if device.type == "cuda":
        print(f"peak on {device}: {torch.cuda.max_memory_allocated(device) / 1e9:.2f} GB allocated, "
              f"{torch.cuda.max_memory_reserved(device) / 1e9:.2f} GB reserved")  # fmt: skip
    first, last = report.blocks[0], report.blocks[-1]
    print(f"loss: {first.loss_before:.4f} -> {first.loss_after:.4f} (first block), "
          f"{last.loss_before:.4f} -> {last.loss_after:.4f} (last block)")  # fmt: skip


def llama(shape: dict[str, Any], layers: int, dtype: torch.dtype, *, swapped: bool = False) -> Any:
    """A Llama on the CPU whose weights are slices of one set of random numbers, which are quick to make."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(num_hidden_layers=layers, max_position_embeddings=8192, **shape)
    config._attn_implementation = "sdpa"
    with torch.device("meta"):
        model: Any = LlamaForCausalLM(config)
    model.to(dtype).eval()
    if swapped:
        swap_(model, DyT(alpha="channel"), calibrate_on=None)
    model.to_empty(device="cpu")
    model.model.rotary_emb = type(model.model.rotary_emb)(config)
    random = torch.randn(2**24, generator=torch.Generator().manual_seed(0))
    wide, narrow = random.to(dtype), (shape["hidden_size"] ** -0.5 * random).to(dtype)
    with torch.no_grad():
        for number, (name, parameter) in enumerate(model.named_parameters()):
            leaf = name.rsplit(".", 1)[-1]
            if parameter.ndim == 1:
                parameter.fill_({"alpha": 0.5, "bias": 0.0}.get(leaf, 1.0))
                continue
            values = (wide if "embed" in name else narrow)[997 * number :]
            for part in parameter.view(-1).split(len(values)):
                part.copy_(values[: len(part)])
    return model


def size_of(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def seconds(since: float) -> str:
    return f"{time.perf_counter() - since:.1f} s"


if __name__ == "__main__":
    main()
