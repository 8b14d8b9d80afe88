"""Spread a loaded model over devices, as transformers' `device_map` does, by accelerate."""

from typing import Any

import torch

DeviceMap = str | dict[str, int | str | torch.device] | None


def dispatch(model: Any, device_map: DeviceMap) -> Any:
    """`model` on the devices of `device_map`: None leaves it; "auto" fills them; a device's name; a mapping."""
    if device_map is None:
        return model
    if isinstance(device_map, str) and device_map not in ("auto", "balanced", "balanced_low_0", "sequential"):
        return model.to(device_map)
    from accelerate import dispatch_model, infer_auto_device_map
    from accelerate.utils import get_balanced_memory

    if isinstance(device_map, str):
        whole = list(getattr(model, "_no_split_modules", None) or [])
        memory = None
        if device_map != "sequential":
            memory = get_balanced_memory(model, no_split_module_classes=whole, low_zero=device_map == "balanced_low_0")
        device_map = infer_auto_device_map(model, max_memory=memory, no_split_module_classes=whole)
    return dispatch_model(model, device_map=device_map)
