"""What a recovery needs in memory, said before it starts rather than found out in the middle."""

from typing import Any

from unnorm.foundation import ranks
from unnorm.foundation.errors import SettingsError
from unnorm.foundation.memory import memory_free
from unnorm.foundation.precision import choose, default_device
from unnorm.metrics.output_layer import positions_at_once
from unnorm.tuning.recover_settings import RecoverSettings
from unnorm.tuning.settings import Sharding

TRAINED_BYTES = 16
"""Bytes of a weight that learns: itself, its gradient and AdamW's two moments, in fp32."""
_CAST_BYTES = 2
"""Of autocast's copy of a weight."""
_OWN_WIDTHS = {4: 10, 2: 16}
"""Numbers that a block keeps of a token for its backward pass, in widths of the model and what its MLP keeps left out,
by the bytes of one: in bf16 the stream itself stays fp32, and each layer that reads it keeps a copy. Measured on Llama,
GPT-2 and GPT-NeoX."""
_INNER_WIDTHS, _INNER_WIDTHS_IN_PARTS = 2, 4
"""The same of the MLP, in its inner width: once before and once after its activation; twice as much where it is gated
or where its activation is computed in parts."""
MOST_KEPT_WIDTHS = _OWN_WIDTHS[4] + 4 * _INNER_WIDTHS_IN_PARTS
"""The most that `kept_numbers` gives for a block in fp32 whose MLP is four times as wide, in widths of the model."""
_IN_PARTS = ("gelu_new", "gelu_fast", "quick_gelu")
_COPIES_OF_LOGITS = {"kl": 5, "ce": 3}
"""In fp32, of the positions that have logits at once."""


def bytes_needed(
    model: Any, original: Any, settings: RecoverSettings, rows: int, length: int, sharding: Sharding = "ddp"
) -> int:
    """An estimate, in bytes, for `rows` rows of `length` tokens at once; of one device, where processes of a launch
    share them. The original stands whole on each."""
    held = sum(p.numel() * p.element_size() for p in original.parameters())
    total = sum(p.numel() for p in model.parameters())
    own = sum(p.numel() * p.element_size() for p in model.parameters())
    on_cpu = default_device().type == "cpu"
    before = own if on_cpu else 0  # the start is kept in the computer's memory
    if settings.train == "all":
        own = total * TRAINED_BYTES
    bytes_a_number = 2 if choose(settings.precision).name == "bf16" else 4
    cast = total * _CAST_BYTES if bytes_a_number == 2 else 0
    world = ranks.count()
    own = own / world if sharding == "fsdp" else own
    tokens = -(-rows // world) * length
    vocabulary = model.config.get_text_config().vocab_size
    positions = min(tokens, positions_at_once(vocabulary))
    logits = positions * vocabulary * _COPIES_OF_LOGITS[settings.objective] * 4
    return int(held + own + before + cast + logits + tokens * kept_numbers(model, bytes_a_number) * bytes_a_number)


def kept_numbers(model: Any, bytes_a_number: int) -> int:
    """How many numbers of so many bytes all blocks keep of one token for the backward pass, the attention matrix left
    out; 0 where the configuration does not tell the model's width."""
    config = model.config.get_text_config()
    width, layers = getattr(config, "hidden_size", 0), getattr(config, "num_hidden_layers", 0)
    inner = getattr(config, "intermediate_size", None) or getattr(config, "n_inner", None) or 4 * width
    sides = [set(p.shape) for p in model.parameters() if p.ndim == 2]
    fused = sum(2 * inner in each for each in sides)
    gated = fused >= layers or sum(inner in each for each in sides) >= 3 * layers
    activation = getattr(config, "hidden_act", None) or getattr(config, "activation_function", None)
    of_inner = _INNER_WIDTHS_IN_PARTS if gated or activation in _IN_PARTS else _INNER_WIDTHS
    return int(layers * (_OWN_WIDTHS[bytes_a_number] * width + of_inner * inner))


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
