"""What a recovery block by block is to do: the blocks and the parameters that learn, the rows, and the run's name."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass

import torch
from torch import nn

from unnorm.foundation.errors import DataError, ModelError
from unnorm.foundation.hashing import hash_json, hash_tensors
from unnorm.surgery.block_calls import block_of
from unnorm.surgery.inputs import Inputs, single_rows, tokens_in
from unnorm.tuning.block_learning import Recipe, learners
from unnorm.tuning.block_streams import StreamPart, parts_of
from unnorm.tuning.pair import record_of_pair

PART_TOKENS = 4096
"""Tokens that pass a block in one call; a step of more adds up their gradients."""
_HELD_OUT = 10  # every tenth row


@dataclass(frozen=True)
class Learning:
    """What learns in one block: the norms whose parameters are relative, and the names of all parameters that learn."""

    norms: list[nn.Module]
    names: list[str]


def swapped_sites(model: nn.Module, original: nn.Module) -> list[str]:
    """Paths of the swapped sites, in execution order. `ModelError` where the two models are not what they should be."""
    return [site.path for site in record_of_pair(model, original).sites]


def stack_of(model: nn.Module, original: nn.Module, swapped: Iterable[str]) -> list[str]:
    """All blocks of the stack in which the swapped sites are."""
    stacks = sorted({block_of(path).rpartition(".")[0] for path in swapped if block_of(path)})
    if len(stacks) != 1:
        raise ModelError(
            f"the swapped sites of {type(model).__name__} are in {len(stacks)} stacks of blocks, and one at a time is "
            "for models with one. Recover the whole model at once."
        )
    blocks = [f"{stacks[0]}.{name}" for name, _ in model.get_submodule(stacks[0]).named_children()]
    for path in blocks:
        try:
            original.get_submodule(path)
        except AttributeError as error:
            raise ModelError(f"the original has no {path}: it is not this model's base.") from error
    return blocks


def what_learns(
    model: nn.Module, original: nn.Module, swapped: Sequence[str], blocks: Sequence[str], recipe: Recipe
) -> dict[str, Learning]:
    """By block, of those that hold swapped sites. blocks: the ones that the model runs, in order."""
    holding = {block_of(path) for path in swapped if block_of(path)}
    if missed := sorted(holding - set(blocks)):
        raise ModelError(f"the forward pass does not reach {missed[0]}, so it cannot be recovered.")
    found: dict[str, Learning] = {}
    for path in blocks:
        if path in holding:
            norms, names = learners(model.get_submodule(path), path, swapped, recipe.train)
            if names:
                found[path] = Learning(norms, names)
    if not found:
        raise ModelError("the norms at the swapped sites in this model's blocks have no parameters to learn.")
    _refuse_shared(model, original, found)
    return found


def _refuse_shared(model: nn.Module, original: nn.Module, learning: Mapping[str, Learning]) -> None:
    """A parameter that another block has too cannot learn in this one alone."""
    everywhere = _owners(model)
    theirs = {parameter.data_ptr() for parameter in original.parameters()}
    for path, what in learning.items():
        module = model.get_submodule(path)
        here = _owners(module)
        for name in what.names:
            parameter = module.get_parameter(name)
            if everywhere[id(parameter)] != here[id(parameter)]:
                raise ModelError(
                    f"{path}.{name} also stands elsewhere in the model, so {path} cannot learn by itself. "
                    "Recover the whole model at once."
                )
            if parameter.is_meta:
                raise ModelError(f"{path}.{name} is on the meta device. Load the model with its weights.")
            if parameter.data_ptr() in theirs:
                raise ModelError(
                    f"{path}.{name} is the original's too, which must stay as it is. Load the base afresh."
                )


def _owners(module: nn.Module) -> Counter[int]:
    return Counter(id(parameter) for _, parameter in module.named_parameters(remove_duplicate=False))


def after_blocks(swapped: Sequence[str]) -> list[str]:
    """The swapped sites that come after the last block."""
    last = max(at for at, path in enumerate(swapped) if block_of(path))
    return [path for path in swapped[last + 1 :] if not block_of(path)]


@dataclass(frozen=True)
class BlockRows:
    """All rows, as parts, and which of these are to be learnt from and which are held out."""

    parts: list[StreamPart]
    learn: list[int]
    held_out: list[int]


def divide(batches: Inputs | Iterable[Inputs], recipe: Recipe) -> BlockRows:
    """Every tenth row is held out; the others are put together in an order given by the seed."""
    rows = [row for row in single_rows(batches) if tokens_in(row)]
    held_out = parts_of(rows[::_HELD_OUT], PART_TOKENS)
    rest = [row for at, row in enumerate(rows) if at % _HELD_OUT]
    order = torch.randperm(len(rest), generator=torch.Generator().manual_seed(recipe.seed)).tolist()
    learn = parts_of([rest[at] for at in order], min(PART_TOKENS, recipe.batch_tokens))
    parts = learn + held_out
    if not learn or not any(bool(part.inner.any()) for part in parts):
        raise DataError("recovery needs more than one row of two or more tokens: some are held out. Give more rows.")
    return BlockRows(parts, list(range(len(learn))), list(range(len(learn), len(parts))))


def run_name(
    model: nn.Module,
    original: nn.Module,
    rows: BlockRows,
    recipe: Recipe,
    precision: str,
    learning: Mapping[str, Learning],
) -> str:
    """A hash of all that decides where a recovery ends, but for the blocks that learn and the norms after them."""
    changing = tuple(f"{path}." for path in (*learning, *after_blocks(swapped_sites(model, original))))
    state = model.state_dict()
    return hash_json(
        {
            "recipe": asdict(recipe),
            "precision": precision,
            "data": hash_tensors({f"{i}/{n}": v for i, part in enumerate(rows.parts) for n, v in part.inputs.items()}),
            "original": hash_tensors(original.state_dict()),
            "rest": hash_tensors({name: value for name, value in state.items() if not name.startswith(changing)}),
            "dtypes": [{name: str(value.dtype) for name, value in m.state_dict().items()} for m in (model, original)],
            "learning": {path: what.names for path, what in learning.items()},
        }
    )
