"""Noise in the residual stream while layers are corrected, so that what they learn holds beside the calibration text.

In the original, the norms divide an attention sink by its own size, and with it whatever else disturbs it. Nothing does
so once they are gone: a correction that fits such a token exactly passes on, and enlarges, each small change of it, be
it bf16's rounding or another word at the same place. A layer that is fitted to disturbed inputs and undisturbed outputs
learns to damp what disturbs it (training with noise is Tikhonov regularization: Bishop 1995,
doi:10.1162/neco.1995.7.1.108).
"""

import torch

from unnorm.surgery.level import LARGE
from unnorm.surgery.outliers import sizes

NOISE = 0.02
"""Of what a layer writes; bf16 rounds by some 0.002."""
_LEAST = 0.3
"""Of the usual noise, at a token to which a layer writes next to nothing."""


class StreamNoise:
    """Seeded noise in proportion to what each layer writes to the stream."""

    def __init__(self, share: float = NOISE, seed: int = 0) -> None:
        self.share = share
        self._generator = torch.Generator().manual_seed(seed)

    def of(self, written: torch.Tensor) -> torch.Tensor:
        """fp32 [N, C] for `written` [N, C], what a layer is to write: Gaussian, of `share` times a channel's root mean
        square over ordinary tokens, times the token's size over the median one's."""
        size = sizes(written)
        relative = size / size.median().clamp_min(1e-30)
        channel = written.float()[relative <= LARGE].square().mean(0).sqrt()
        drawn = torch.randn(written.shape, generator=self._generator).to(written.device)
        return self.share * drawn * channel * relative.clamp_min(_LEAST)[:, None]
