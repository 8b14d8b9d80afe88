"""What trains: the three strategies, set up and then proven. The same in every arm.

`frozen`: LoRA only. `selective`: LoRA and the parameters of norm sites. `full`: every weight, no LoRA. After set-up the
set of trainable parameters is compared with what the strategy means, since peft ignores in silence what it does not
find, freezes what it was not told to train, and matches module names by their ends.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from unnorm.foundation.errors import ModelError, SettingsError, first_line
from unnorm.foundation.seeds import seed_everything
from unnorm.surgery.base import without_peft_notice
from unnorm.surgery.data_flow import dummy_inputs, quiet
from unnorm.surgery.passes import hooked, in_eval
from unnorm.tuning.settings import LoraSettings, Strategy


@dataclass(frozen=True)
class Trainable:
    """Which parameters train, by group (`lora`, `norm`, `weights`): names and numbers."""

    strategy: Strategy
    names: dict[str, list[str]]
    parameters: dict[str, int]
    total_parameters: int

    @property
    def trainable_parameters(self) -> int:
        return sum(self.parameters.values())

    def describe(self) -> str:
        """One line for people."""
        groups = " + ".join(f"{count:,} {group}" for group, count in self.parameters.items())
        share = self.trainable_parameters / self.total_parameters
        return f"{self.strategy} trains {groups} parameters: {share:.2%} of {self.total_parameters:,}"

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def apply_strategy(
    model: Any, strategy: Strategy, *, site_paths: Sequence[str], lora: LoraSettings, seed: int
) -> tuple[Any, Trainable]:
    """Make `model` train what `strategy` says. Returns the model (a PeftModel unless `full`) and what trains.

    site_paths: the norm sites that `selective` trains. LoRA's initial values depend on the seed alone, so that they
    are the same in every arm. What trains is held in fp32.
    """
    if strategy == "full":
        model.requires_grad_(True)
        names = [name for name, _ in model.named_parameters()]
        expected = {"weights": names}
    else:
        model, expected = _with_lora(model, site_paths if strategy == "selective" else [], lora, seed)
    parameters = dict(model.named_parameters())
    for group in expected.values():
        for name in group:
            parameters[name].data = parameters[name].data.float()
    _check(parameters, expected, strategy)
    return model, Trainable(
        strategy=strategy,
        names=expected,
        parameters={group: sum(parameters[name].numel() for name in names) for group, names in expected.items()},
        total_parameters=sum(parameter.numel() for parameter in parameters.values()),
    )


def lora_targets(model: nn.Module, lora: LoraSettings) -> list[str]:
    """Names of the modules that get LoRA: last parts of paths, or whole paths where a last part would mean too much.

    `auto` is every linear layer on which LoRA works: none that peft refuses, none whose weight is read by its block
    instead of being called. Of a model that is more than a language model (with a vision
    tower) a target takes the language model's layers alone, if it matches any of them. A target that matches no linear
    layer, or layers that peft refuses, is a `SettingsError`.
    """
    linear = _linear_layers(model)
    inside = _language_model(model)
    leaves = sorted({name.rsplit(".", 1)[-1] for name in linear})
    refused = {leaf: why for leaf in leaves if (why := _refused(model, leaf))}
    if lora.targets == "auto":
        usable = {name.rsplit(".", 1)[-1] for name in linear if name.startswith(inside)}
        targets = sorted(usable - refused.keys() - _read_by_their_blocks(model, linear))
        if not targets:
            raise ModelError(f"{type(model).__name__} has no linear layers that LoRA could be put on.")
    else:
        targets = list(lora.targets)
    found: list[str] = []
    for target in targets:
        meant = [name for name in linear if _matches(name, target)]
        if not meant:
            raise SettingsError(
                f"LoRA target {target!r} matches no linear layer of {type(model).__name__}. "
                f"There are: {', '.join(leaves)}."
            )
        if (leaf := target.rsplit(".", 1)[-1]) in refused:
            raise SettingsError(f"LoRA target {target!r} cannot be used: {refused[leaf]}")
        taken = [name for name in meant if name.startswith(inside)] or meant
        found += [target] if len(taken) == len(meant) else taken
    return found


def _matches(name: str, target: str) -> bool:
    """Whether peft takes the module `name` for `target`."""
    return name == target or name.endswith("." + target)


def _language_model(model: Any) -> str:
    """What the paths of the language model's modules begin with, in a model that is more than one; else nothing."""
    if model.config.get_text_config() is model.config:
        return ""
    decoder = model.get_decoder()
    return next((f"{path}." for path, module in model.named_modules() if path and module is decoder), "")


def _refused(model: nn.Module, leaf: str) -> str:
    """Why peft puts no LoRA on layers called `leaf`, in its words; nothing where it does."""
    from peft import LoraConfig
    from peft.tuners import tuners_utils

    check = getattr(tuners_utils, "_check_lora_target_modules_mamba", None)
    try:
        if check is not None:
            check(LoraConfig(), model, leaf)
    except ValueError as error:
        return first_line(error)
    return ""


def _read_by_their_blocks(model: Any, linear: dict[str, nn.Module]) -> set[str]:
    """Last parts of the paths of layers that are not called where the module they stand in is: it reads their weights
    itself, as Mamba does, and LoRA on them would change nothing."""
    blocks = {name: model.get_submodule(name.rpartition(".")[0]) for name in linear}
    called: set[nn.Module] = set()
    handles = [
        module.register_forward_hook(lambda m, *_: called.add(m)) for module in {*linear.values(), *blocks.values()}
    ]
    try:
        with hooked(handles), in_eval(model), quiet(), torch.no_grad():
            model(**dummy_inputs(model, next(model.parameters()).device))
    except Exception:  # it does not run on token ids alone: nothing is known
        return set()
    return {name.rsplit(".", 1)[-1] for name in linear if linear[name] not in called and blocks[name] in called}


def _linear_layers(model: nn.Module) -> dict[str, nn.Module]:
    from transformers.pytorch_utils import Conv1D

    head = model.get_output_embeddings()  # type: ignore[operator]
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, (nn.Linear, Conv1D)) and module is not head
    }


def _with_lora(
    model: Any, site_paths: Sequence[str], lora: LoraSettings, seed: int
) -> tuple[Any, dict[str, list[str]]]:
    from peft import LoraConfig, get_peft_model
    from transformers.pytorch_utils import Conv1D

    targets = lora_targets(model, lora)
    wrapped = [name for name in _linear_layers(model) if any(_matches(name, target) for target in targets)]
    expected = {
        "lora": [f"base_model.model.{name}.lora_{half}.default.weight" for name in wrapped for half in "AB"],
    }
    if site_paths:
        expected["norm"] = [
            f"base_model.model.{path}.modules_to_save.default.{name}"
            for path in site_paths
            for name, _ in model.get_submodule(path).named_parameters()
        ]
    config = LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=targets,
        modules_to_save=list(site_paths) or None,
        fan_in_fan_out=any(isinstance(model.get_submodule(name), Conv1D) for name in wrapped),
        task_type="CAUSAL_LM",
    )
    seed_everything(seed)
    with without_peft_notice():
        return get_peft_model(model, config), expected


def _check(parameters: dict[str, torch.Tensor], expected: dict[str, list[str]], strategy: Strategy) -> None:
    wanted = {name for names in expected.values() for name in names}
    found = {name for name, parameter in parameters.items() if parameter.requires_grad}
    if wanted != found:
        raise ModelError(
            f"strategy {strategy!r} could not be set up on this model: peft would train "
            f"{sorted(found - wanted)[:4] or 'nothing'} that it should not, and leave out "
            f"{sorted(wanted - found)[:4] or 'nothing'}. Name LoRA targets and sites that are no endings of others."
        )
