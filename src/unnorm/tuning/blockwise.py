"""Recover one block at a time, for models that do not fit twice: each learns to give the original's stream.

The swapped block is given the stream that the converted blocks before it make, and what it is to give is the stream of
the original's block on the original's own. One block's parameters, gradients and optimizer state are on the device at a
time; the two streams are on the CPU or on disk, and so may both models be. Norms after the blocks are fitted anew in
closed form at the end; those before are left as they are.
"""

import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from unnorm.foundation.atomic import disk_errors
from unnorm.foundation.errors import ModelError, NonFiniteError, SettingsError, first_line
from unnorm.foundation.hashing import hash_tensors, hash_text
from unnorm.foundation.progress import Bar
from unnorm.surgery.block_calls import Spill
from unnorm.surgery.inputs import Inputs
from unnorm.tuning.after_blocks import SiteRefit, refit_
from unnorm.tuning.block_learning import Goal, Recipe, Train, learn, mean_error
from unnorm.tuning.block_memory import check_device, check_streams
from unnorm.tuning.block_store import BlockStore
from unnorm.tuning.block_streams import Machine, StreamPart, Streams, enter, on_device, parts_of, probe, take_over
from unnorm.tuning.block_work import (
    BlockRows,
    Learning,
    after_blocks,
    divide,
    run_name,
    stack_of,
    swapped_sites,
    what_learns,
)
from unnorm.tuning.learners import without_gradients


@dataclass(frozen=True)
class BlockRecovery:
    """What one block learnt. Losses a token on held-out rows, in squared units of the channels' own sizes; with the
    block's parameters as they are saved."""

    path: str
    loss_before: float
    loss_after: float
    kept: bool
    """False where the held-out rows got worse: the block is as it was."""
    steps: int
    tokens: int
    parameters: int
    seconds: float


@dataclass(frozen=True)
class BlockwiseReport:
    """What a recovery block by block did; `resumed`: how many of its blocks an earlier call had finished."""

    blocks: tuple[BlockRecovery, ...]
    refitted: tuple[SiteRefit, ...]
    train: str
    tokens: int
    """That the blocks learnt from, each of its own: rows times rounds, summed over blocks."""
    rows: int
    held_out_rows: int
    resumed: int
    needed_bytes: int
    """Of device memory, as estimated before the start."""
    seconds: float

    def describe(self) -> str:
        """A few lines for people."""
        first, last = self.blocks[0], self.blocks[-1]
        lines = [
            f"recovered {len(self.blocks)} blocks one at a time in {self.seconds:.0f} s: the stream's error after the "
            f"last block is {last.loss_after if last.kept else last.loss_before:.4f} "
            f"({last.loss_before:.4f} before that block learnt; {first.loss_before:.4f} before the first one did)"
        ]
        back = [block.path for block in self.blocks if not block.kept]
        if back:
            lines.append(f"got worse on held-out rows and were put back: {', '.join(back)}")
        worse = [site.path for site in self.refitted if not site.kept]
        if worse:
            lines.append(f"not fitted anew, since that was worse on held-out rows: {', '.join(worse)}")
        if self.resumed:
            lines.append(f"{self.resumed} of the blocks had been finished before")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def recover_blockwise_(
    model: nn.Module,
    original: nn.Module,
    batches: Inputs | Iterable[Inputs],
    *,
    steps: int,
    batch_tokens: int,
    norm_learning_rate: float,
    learning_rate: float,
    train: Train = "all",
    folder: Path | None = None,
    device: torch.device | str | None = None,
    precision: str = "bf16",
    seed: int = 0,
    quiet: bool = False,
    check: Callable[[], None] = lambda: None,
) -> BlockwiseReport:
    """Let each block of the swapped `model` that holds swapped sites learn to give `original`'s stream, in place.

    batches: token ids [B, T] or model inputs (packed rows with `position_ids`, padded ones with an `attention_mask`),
    or an iterable of them; every tenth row is held out. Each block takes `steps` steps of about `batch_tokens` tokens,
    in an order given by `seed`. train: `all` parameters of the block, with its norms' learning relatively at
    `norm_learning_rate` and the rest at `learning_rate`, or the swapped `norms` alone. precision: `fp32`, or `bf16` for
    autocast; what is of less than fp32 is held and stepped in fp32 while it learns (`all`) and rounded back.

    device: where blocks compute; None: where each stands. folder: for the streams, and for finished blocks: the same
    call goes on with the first block that is not finished, on a CPU to the same end bit for bit. check: called before
    each block; what it raises ends the run there.

    A block that ends worse on held-out rows is put back. Ctrl-C and errors leave `original` as it was and `model` at
    its last finished block: finished ones keep what they learnt, the one at work is as it was.

    Raises `ModelError` where the models do not fit or blocks cannot run by themselves, `SettingsError` where the device
    has too little memory or the folder holds another run, `NonFiniteError` with block and step.
    """
    started = time.perf_counter()
    recipe = Recipe(steps, batch_tokens, norm_learning_rate, learning_rate, train, seed)
    machine = _machine(recipe, device, precision)
    swapped = swapped_sites(model, original)
    rows = divide(batches, recipe)
    records: list[BlockRecovery] = []
    model.zero_grad()
    original.zero_grad()
    with without_gradients(model), without_gradients(original), _streams_in(folder) as spill:
        one = _one_row(rows)
        returns = probe(original, stack_of(model, original, swapped), one, machine)
        learning = what_learns(model, original, swapped, list(returns), recipe)
        row = enter(model, returns, [one])
        needed = check_device(model, learning, row, one, rows, recipe, machine)
        check_streams(row, one, rows, folder)
        store = _store(folder, model, original, rows, recipe, precision, learning)
        resumed = len(store.finished) if store else 0
        found = enter(model, returns, rows.parts, spill, "found")
        wanted = enter(original, returns, rows.parts, spill, "wanted")
        if any(a.shape != b.shape for a, b in zip(found.hidden, wanted.hidden, strict=True)):
            raise ModelError("the original's hidden states are of another shape: it is not this model's base.")
        with Bar("recovering blocks", len(learning), quiet=quiet) as bar:
            pace = _Pace(bar, steps, (len(learning) - resumed) * steps)
            for path in returns:
                check()
                module = model.get_submodule(path)
                wanted.advance(original.get_submodule(path), path, machine)
                if path in learning:
                    if store and path in store.finished:
                        take_over(module, store.load(path, dict(module.named_parameters())))
                        records.append(BlockRecovery(**store.finished[path]["record"]))
                    else:
                        goal = Goal.of(wanted, rows.parts)
                        records.append(
                            _recover_block(module, path, learning[path], found, goal, rows, recipe, machine, pace)
                        )
                        if store:
                            own = dict(module.named_parameters())
                            values = {name: own[name] for name in learning[path].names}
                            store.keep(path, values, hash_tensors(module.state_dict()), asdict(records[-1]))
                    bar.advance(1, f"{path}: {records[-1].loss_before:.4f} -> {records[-1].loss_after:.4f}")
                found.advance(module, path, machine)
        refitted = tuple(
            refit_(model, original, path, returns, found, wanted, rows.parts, rows.learn, rows.held_out)
            for path in after_blocks(swapped)
        )
    return BlockwiseReport(
        blocks=tuple(records),
        refitted=refitted,
        train=train,
        tokens=sum(record.tokens for record in records),
        rows=sum(len(rows.parts[i].keep) for i in rows.learn),
        held_out_rows=sum(len(rows.parts[i].keep) for i in rows.held_out),
        resumed=resumed,
        needed_bytes=needed,
        seconds=time.perf_counter() - started,
    )


def _recover_block(
    module: nn.Module,
    path: str,
    what: Learning,
    found: Streams,
    goal: Goal,
    rows: BlockRows,
    recipe: Recipe,
    machine: Machine,
    pace: "_Pace",
) -> BlockRecovery:
    """Let the block learn and keep what it learnt, unless that is worse on held-out rows."""
    started = time.perf_counter()
    device = machine.of(module)
    generator = torch.Generator().manual_seed(hash_text(f"{recipe.seed}/{path}") % 2**63)

    def held_out_error(values: dict[str, torch.Tensor] | None = None) -> float:
        with on_device(module, device, values), machine.autocast(device):
            return mean_error(module, path, found, goal, rows.parts, rows.held_out)

    before = held_out_error()
    if not before < float("inf"):
        raise NonFiniteError(
            f"{path}: the loss is not finite before step 1. The blocks before it are kept. "
            "Check the original's output, and calibrate the swapped norms if they start bare."
        )
    values, tokens = learn(
        module, path, what.norms, what.names, found, goal, rows.parts, rows.learn, recipe, machine, generator, pace
    )
    after = held_out_error(values)
    kept = after <= before
    if kept:
        take_over(module, values)
    return BlockRecovery(
        path=path,
        loss_before=before,
        loss_after=after,
        kept=kept,
        steps=recipe.steps,
        tokens=tokens,
        parameters=sum(value.numel() for value in values.values()),
        seconds=time.perf_counter() - started,
    )


class _Pace:
    """Tells the bar a block's step, its loss, and how long all steps that are left will take at this pace."""

    def __init__(self, bar: Bar, steps: int, total: int) -> None:
        self.bar, self.steps, self.total, self.done = bar, steps, total, 0
        self.started = time.perf_counter()

    def __call__(self, path: str, step: int, loss: float) -> None:
        self.done += 1
        left = (time.perf_counter() - self.started) * (self.total / self.done - 1)
        self.bar.advance(0, f"{path}, step {step}/{self.steps}: loss {loss:.4f}, {left / 60:.1f} min left")


def _machine(recipe: Recipe, device: torch.device | str | None, precision: str) -> Machine:
    if precision not in ("fp32", "bf16"):
        raise SettingsError(f"precision is fp32 or bf16, not {precision!r}.")
    if recipe.train not in ("all", "norms"):
        raise SettingsError(f"one block at a time, train is all or norms, not {recipe.train!r}.")
    rates = (recipe.norm_learning_rate, recipe.learning_rate)
    if recipe.steps < 1 or recipe.batch_tokens < 1 or not all(0 < rate < float("inf") for rate in rates):
        raise SettingsError("steps, batch_tokens and learning rates must be above 0.")
    try:
        there = None if device is None else torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:  # torch asserts that it was built with CUDA
        raise SettingsError(f"device {device} cannot be used here: {first_line(error)}") from error
    return Machine(there, precision)


def _one_row(rows: BlockRows) -> StreamPart:
    return parts_of([{name: tensor[:1] for name, tensor in rows.parts[0].inputs.items()}], 1)[0]


@contextmanager
def _streams_in(folder: Path | None) -> Iterator[Spill | None]:
    """Where streams are kept on disk while open, if there is a `folder`."""
    if folder is None:
        yield None
        return
    place = folder / "streams"
    shutil.rmtree(place, ignore_errors=True)  # of a run that was killed
    with disk_errors(place):
        place.mkdir(parents=True)
    try:
        yield Spill(place)
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _store(
    folder: Path | None,
    model: nn.Module,
    original: nn.Module,
    rows: BlockRows,
    recipe: Recipe,
    precision: str,
    learning: dict[str, Learning],
) -> BlockStore | None:
    if folder is None:
        return None
    digests = {path: hash_tensors(model.get_submodule(path).state_dict()) for path in learning}
    return BlockStore(folder, run_name(model, original, rows, recipe, precision, learning), digests)
