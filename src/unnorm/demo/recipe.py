"""How the demo's base is made."""

from dataclasses import dataclass


@dataclass(frozen=True)
class BaseRecipe:
    """Sizes, steps and rates. Its hash, with the corpus's, names the cached folder."""

    rows: int = 16_000
    finetune_rows: int = 4_000
    vocabulary: int = 1000
    hidden_size: int = 160
    layers: int = 4
    heads: int = 4
    rotary_share: float = 1.0
    initializer_range: float = 0.08
    rows_a_step: int = 4
    steps: int = 480
    learning_rate: float = 2e-3
    warmup: float = 0.05
    weight_decay: float = 0.1
    seed: int = 0
