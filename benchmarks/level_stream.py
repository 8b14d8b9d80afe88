"""What corrected layers should aim at: the stream as it is, or with its large tokens brought down (docs/log.md).

    python benchmarks/level_stream.py BASE [--only NAME ...] [--tokens 4096]

One line a variant: the gap and the KL on held-out Alpaca, and on Alpaca, GSM8K and ShareGPT, of a swap whose norms and
layers are fitted to `--tokens` tokens of Alpaca. `scaled-2.5` is what unnorm does.
"""

import argparse
import copy
from collections.abc import Callable
from functools import partial
from unittest.mock import patch

import torch

import unnorm
from machine import SHARED
from unnorm.data.mixture import Mixture
from unnorm.data.prepare import Source
from unnorm.data.settings import DataSettings
from unnorm.surgery import correct
from unnorm.surgery.base import context_length, load_base, load_tokenizer
from unnorm.surgery.level import levelled
from unnorm.surgery.outliers import sizes
from unnorm.tuning.distance import distance

Aim = Callable[[torch.Tensor], torch.Tensor]


def cut(least: float, share: float) -> Aim:
    """Channels of tokens over `least` times the median size, cut at `share` of their root mean square over others."""

    def aim(stream: torch.Tensor) -> torch.Tensor:
        size = sizes(stream)
        large = size > least * size.median()
        limit = share * stream[~large].square().mean(0).sqrt()
        return torch.where(large[:, None], stream.clamp(-limit, limit), stream)

    return aim


AIMS: dict[str, Aim] = {
    "as-it-is": lambda stream: stream,
    "cut-5-at-5": cut(5.0, 5.0),
    "cut-5-at-2": cut(5.0, 2.0),
    "cut-5-at-1": cut(5.0, 1.0),
    "cut-2.5-at-1": cut(2.5, 1.0),
    "scaled-2.5": partial(levelled, least=2.5),
    "scaled-1.25": partial(levelled, least=1.25),
    "scaled-all": partial(levelled, least=0.0),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base")
    parser.add_argument("--only", nargs="*", choices=AIMS, default=list(AIMS))
    parser.add_argument("--norm", choices=["dyt", "fixedscale"], default="dyt")
    parser.add_argument("--tokens", type=int, default=4096)
    a = parser.parse_args()
    data = SHARED / "data"
    base, tokenizer = load_base(a.base), load_tokenizer(a.base)
    alpaca = DataSettings(source=str(data / "alpaca" / "alpaca_data.json"), name="alpaca", max_length=256)
    source = Source(alpaca, tokenizer, quiet=True)
    rows = source.train(a.tokens, 0, True)
    (fit,) = rows.batches(len(rows.rows))
    held_out = [list(source.with_loss_on("all").validation(2048, True).batches(8))]
    paths = (alpaca.source, data / "gsm8k" / "train_alpaca_format.json", data / "sharegpt" / "sharegpt_real_1k.json")
    length = min(512, context_length(base) or 512)
    parts = [(DataSettings(source=str(path), max_length=length, loss_on="all"), 1.0) for path in paths]
    mixed = Mixture(parts, tokenizer, quiet=True).held_out(1536)
    held_out.append([mixed.collate(mixed.rows[i : i + 4]) for i in range(0, len(mixed.rows), 4)])
    norm = unnorm.DyT(alpha="channel") if a.norm == "dyt" else unnorm.FixedScale()
    wanted = ("input_ids", "position_ids", "attention_mask")
    inputs: dict[str, torch.Tensor] = {name: tensor for name, tensor in fit.items() if name in wanted}
    for name in a.only:
        model = copy.deepcopy(base)
        with patch.object(correct, "levelled", AIMS[name]):
            unnorm.swap_(model, norm, calibrate_on=inputs, correct="all")
        found = [distance(model, base, batches) for batches in held_out]
        print(f"{name}: " + "; ".join(f"{each.gap:+.1%}, KL {each.kl:.3f}" for each in found), flush=True)


if __name__ == "__main__":
    main()
