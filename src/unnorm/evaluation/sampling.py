"""Sampling that does not depend on what stands in the same batch: each row draws from a generator of its own.

`argmax(logits / T + g)` with g standard Gumbel noise is a draw from `softmax(logits / T)` (the Gumbel-max trick;
Maddison et al. 2014, arXiv 1411.0030), so greedy decoding of noisy logits samples.
"""

from collections.abc import Sequence

import torch
from transformers import LogitsProcessor


class GumbelSampler(LogitsProcessor):
    """Adds each row's noise to its logits [B, V]; rows of temperature 0 are left alone, to be decoded greedily."""

    def __init__(self, temperatures: Sequence[float], seeds: Sequence[int]) -> None:
        self.temperatures = list(temperatures)
        self.generators = [
            torch.Generator().manual_seed(seed) if temperature > 0 else None
            for temperature, seed in zip(temperatures, seeds, strict=True)
        ]

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        noisy = scores.to(torch.float32, copy=True)  # in bf16 the noise would be rounded to a few values
        for row, generator in enumerate(self.generators):
            if generator is not None:
                uniform = torch.rand(scores.shape[-1], generator=generator, dtype=torch.float64)
                noise = -torch.log(-torch.log(uniform.clamp_min(1e-300)))
                noisy[row] = noisy[row] / self.temperatures[row] + noise.to(noisy)
        return noisy  # type: ignore[return-value]
