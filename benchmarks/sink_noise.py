"""What noise and short pieces do for a corrected swap (docs/log.md).

    python benchmarks/sink_noise.py BASE [--only NAME ...] [--tokens 8192] [--novels NOVELS.jsonl]

A line a variant and data set: the gap of the swap in fp32 and under bf16 autocast, and how much a change of the first
token's embedding changes the divergence from the original, beside the median token's. Norms and layers are fitted to
`--tokens` tokens of Alpaca, GSM8K, ShareGPT, and novels where they are given; each set is measured on held-out tokens.
"""

import argparse
import copy
from functools import partial
from typing import Any
from unittest.mock import patch

import torch

import unnorm
from gap_by_text import both, held_out, read
from machine import SHARED, machine_line
from unnorm.data.mixture import Mixture
from unnorm.surgery import correct
from unnorm.surgery.base import load_base, load_tokenizer
from unnorm.surgery.inputs import with_pieces
from unnorm.surgery.noise import StreamNoise

VARIANTS: dict[str, tuple[float, int | None]] = {
    "neither": (0.0, None),
    "noise-0.02": (0.02, None),
    "noise-0.1": (0.1, None),
    "pieces-32": (0.0, 32),
    "noise-0.02-pieces-32": (0.02, 32),
    "noise-0.02-pieces-8": (0.02, 8),
    "noise-0.05-pieces-32": (0.05, 32),
}
"""Name -> share of noise, and tokens of a piece."""


def gradients(model: Any, original: Any, batch: dict[str, torch.Tensor]) -> str:
    """Sizes of ∂ KL / ∂ embedding, KL the mean over the first row of `batch`."""
    positions = batch["position_ids"][:1]
    embedded = model.get_input_embeddings()(batch["input_ids"][:1]).detach().requires_grad_()
    with torch.no_grad():
        wanted = original(input_ids=batch["input_ids"][:1], position_ids=positions, use_cache=False).logits
    found = model(inputs_embeds=embedded, position_ids=positions, use_cache=False).logits
    pair = (found.log_softmax(-1)[0], wanted.log_softmax(-1)[0])
    torch.nn.functional.kl_div(*pair, log_target=True, reduction="batchmean").backward()
    model.zero_grad()
    sizes = embedded.grad[0].norm(dim=-1)
    return f"gradient at the first token {sizes[0]:.3g}, median {sizes.median():.3g}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base")
    parser.add_argument("--only", nargs="*", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--tokens", type=int, default=8192)
    parser.add_argument("--held-out", type=int, default=1024)
    parser.add_argument("--novels", help="records with `text`")
    a = parser.parse_args()
    base, tokenizer = load_base(a.base), load_tokenizer(a.base)
    paths = {
        "Alpaca": SHARED / "data" / "alpaca" / "alpaca_data.json",
        "GSM8K": SHARED / "data" / "gsm8k" / "train_alpaca_format.json",
        "ShareGPT": SHARED / "data" / "sharegpt" / "sharegpt_real_1k.json",
        **({"novels": a.novels} if a.novels else {}),
    }
    data = read(base, paths)
    rows = Mixture([(settings, 1.0) for settings in data.values()], tokenizer, quiet=True).train(a.tokens, 0)
    whole = rows.collate(rows.rows)
    fit = {name: whole[name] for name in ("input_ids", "position_ids")}
    measured = {name: held_out(settings, tokenizer, a.held_out) for name, settings in data.items()}
    print(machine_line(), flush=True)
    for name in a.only:
        share, piece = VARIANTS[name]
        model = copy.deepcopy(base)
        inputs = with_pieces(fit, piece) if piece else fit
        with patch.object(correct, "StreamNoise", partial(StreamNoise, share)):
            unnorm.swap_(model, unnorm.DyT(alpha="channel"), calibrate_on=inputs, correct="all")
        model.eval()
        for text, batch in measured.items():
            gaps = [f"{one.gap:+.1%}" for one in both(model, base, batch)]
            print(f"{name}, {text}: {gaps[0]}, in bf16 {gaps[1]}; {gradients(model, base, batch)}", flush=True)


if __name__ == "__main__":
    main()
