"""What a recovery needs in memory, said before it starts rather than found out in the middle."""

from typing import Any

from unnorm.foundation import ranks
from unnorm.foundation.errors import SettingsError
from unnorm.foundation.memory import memory_free
from unnorm.foundation.precision import choose, default_device
from unnorm.tuning.recover_settings import RecoverSettings
from unnorm.tuning.settings import Sharding

TRAINED_BYTES = 16
"""Bytes of a weight that learns: itself, its gradient and AdamW's two moments, in fp32."""
_ACTIVATIONS = 17
"""Numbers that a block keeps for its backward pass, in widths of the model, a token (Korthikanti et al. 2022,
arXiv 2205.05198, equation 2, without the attention matrix and with 2 bytes each for 34)."""


def bytes_needed(
    model: Any, original: Any, settings: RecoverSettings, rows: int, length: int, sharding: Sharding = "ddp"
) -> int:
    """An estimate, in bytes, for `rows` rows of `length` tokens at once; of one device, where processes of a launch
    share them. The original stands whole on each."""
    held = sum(p.numel() * p.element_size() for p in original.parameters())
    total = sum(p.numel() for p in model.parameters())
    own = sum(p.numel() * p.element_size() for p in model.parameters())
    if settings.train == "all":
        own = total * TRAINED_BYTES
    config = model.config.get_text_config()
    width, layers = getattr(config, "hidden_size", 0), getattr(config, "num_hidden_layers", 0)
    bytes_a_number = 2 if choose(settings.precision).name == "bf16" else 4
    world = ranks.count()
    own, rows = own / world if sharding == "fsdp" else own, -(-rows // world)
    return int(held + own + rows * length * width * layers * _ACTIVATIONS * bytes_a_number)


def check_memory(
    model: Any, original: Any, settings: RecoverSettings, rows: int, length: int, sharding: Sharding = "ddp"
) -> None:
    """A `SettingsError` with the estimate where the device has clearly less memory than a recovery needs."""
    needed, free = bytes_needed(model, original, settings, rows, length, sharding), memory_free(default_device())
    if free is not None and needed > free:
        raise SettingsError(
            f"this recovery needs about {needed / 2**30:.1f} GiB on {default_device().type} for {rows} rows of "
            f"{length} tokens at once, and {free / 2**30:.1f} GiB are free. Use fewer rows a forward, train with LoRA "
            "(train=lora), or recover block by block."
        )
