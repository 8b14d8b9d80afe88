"""Recover a swapped model from named data: the one recipe for `unnorm recover` and for a study's arms.

FOLDER/steps.jsonl, evaluations.jsonl, checkpoints/   as of every training run
FOLDER/blocks/, blocks.json                           of blocks that learnt one at a time first
FOLDER/recovery.json                                  what it did, at the end
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unnorm.data.encoded_cache import tokenizer_hash
from unnorm.data.mixture import Mixture, Part, When
from unnorm.data.settings import DataSettings
from unnorm.data.sources import counts_in_words
from unnorm.foundation import ranks
from unnorm.foundation.errors import ModelError, SettingsError
from unnorm.foundation.hashing import digest_tensors, hash_digests, hash_json
from unnorm.norms.fixed_scale import FixedScale
from unnorm.study.blocks_first import blocks_first_
from unnorm.study.hooks import Hooks
from unnorm.study.start import check_rows
from unnorm.surgery.base import check_length
from unnorm.surgery.swap import record_of
from unnorm.tuning.compiled_blocks import COMPILED, check_blocks_compilable
from unnorm.tuning.device_rows import check_shares
from unnorm.tuning.distance import USABLE
from unnorm.tuning.memory_need import check_memory
from unnorm.tuning.packing_probe import packing_is_clean
from unnorm.tuning.pair import check_base, record_beside
from unnorm.tuning.recover import RecoveryRun, RecoveryText, distil_
from unnorm.tuning.recover_report import RecoverReport
from unnorm.tuning.recover_settings import RecoverSettings, amiss_blockwise
from unnorm.tuning.settings import Sharding
from unnorm.tuning.straighten import bent_sites

_TOKENS_MEASURED_AT_ONCE = 4096


@dataclass(frozen=True)
class Recovery:
    """Everything that shapes a recovery beside the two models.

    data: each data set and its share of the tokens. held_out_tokens: what the gap is measured on; by `held_out_for`
    unless given. when_out: what is done where the data run out. blockwise: blocks learn one at a time first, each from
    up to `BLOCK_TOKENS`; where memory does not suffice for more, that is all. sharding: how several processes share it.
    """

    settings: RecoverSettings
    data: tuple[tuple[DataSettings, float], ...]
    held_out_tokens: int | None = None
    when_out: When = "again"
    seed: int = 0
    blockwise: bool = False
    sharding: Sharding = "ddp"

    @property
    def measured_tokens(self) -> int:
        """How many the gap is measured on."""
        return self.held_out_tokens if self.held_out_tokens is not None else held_out_for(self.settings.tokens)


def held_out_for(tokens: int) -> int:
    """Held-out tokens of a recovery from `tokens`: 20,000, or fewer so that measuring a dozen times stays far cheaper
    than learning."""
    return min(20_000, max(2_048, tokens // 50))


def parse_data(entries: Sequence[str]) -> list[tuple[str, float]]:
    """NAME or NAME=WEIGHT, each as (name, weight). A weight that is no number above 0 is a `SettingsError`."""
    found = []
    for entry in entries:
        name, equals, text = entry.rpartition("=")
        if not equals or Path(entry).expanduser().exists():
            found.append((entry, 1.0))
            continue
        try:
            weight = float(text)
        except ValueError:
            weight = 0.0
        if not 0 < weight < float("inf") or not name:
            raise SettingsError(f"data {entry!r}: after the = stands a weight above 0, as in alpaca=0.5.")
        found.append((name, weight))
    return found


def recover_run(
    model: Any,
    original: Any,
    tokenizer: Any,
    recovery: Recovery,
    folder: Path,
    hooks: Hooks,
    *,
    rows_per_forward: int | None,
    evaluate_every: int | None,
) -> tuple[RecoverReport, list[Part]]:
    """Recover `model` in place in `folder`, or go on with it there. Returns the report, and what was learnt from.

    `hooks.begun` is told the run's name once everything was found right and nothing is computed yet. A second call with
    the same models, data and settings goes on from the last checkpoint; with others it is refused. Raises as `recover_`
    does, and `SettingsError` where memory does not suffice.
    """
    say, quiet = hooks.say, hooks.quiet
    check_base(record_beside(model, original), original)
    length = recovery.data[0][0].max_length
    check_length(original, length)
    training = recovery.settings.training(length)
    rows_per_step = training.batch_tokens // length
    need = rows_per_forward or rows_per_step
    if recovery.blockwise:
        if ranks.count() > 1:
            raise SettingsError("blocks that learn one at a time learn on one device: run it without torchrun.")
        wanted = recovery.settings
        if amiss := amiss_blockwise(wanted.objective, wanted.train, wanted.straighten):
            raise SettingsError(f"{amiss}.")
    else:
        check_shares(rows_per_step)
        check_memory(model, original, recovery.settings, need, length, recovery.sharding)
    if recovery.settings.compile:
        check_blocks_compilable(recovery.sharding)
        say(COMPILED)
    packs = packing_is_clean(original)
    if not packs:
        say("rows packed into this model would leak into each other: padding instead, one row each")
    mixture = Mixture(recovery.data, tokenizer, packed=packs, quiet=quiet)
    rows = mixture.train(recovery.settings.tokens, recovery.seed, when_out=recovery.when_out)
    held_out = mixture.held_out(recovery.measured_tokens)
    check_rows(original, rows, held_out)
    for part in mixture.parts:
        again = f", {part.passes:.2g} times through" if part.passes > 1 else ""
        say(f"{part.name}: {part.tokens:,} tokens ({part.weight:.0%} of the mixture){again}")
    read = [source.reading for source, _ in mixture.data]
    dropped = sum((one.dropped for one in read), rows.dropped + held_out.dropped)
    changed = sum((one.changed for one in read), rows.changed + held_out.changed)
    say(f"dropped: {counts_in_words(dropped)}; changed: {counts_in_words(changed)}")
    if rows.tokens < 0.9 * recovery.settings.tokens:
        say(f"the data run out after {rows.tokens:,} tokens, before {recovery.settings.tokens:,}: it stops there")
    say(
        f"{rows.tokens:,} tokens to learn from in {len(rows.rows):,} rows, {held_out.tokens:,} to measure on; "
        f"rows a step: {rows_per_step}"
    )
    name = hash_json(
        {
            "recovery": recovery.settings.model_dump(mode="json"),
            "precision": training.precision,
            "data": mixture.identity,
            "when_out": recovery.when_out,
            "held_out_tokens": recovery.measured_tokens,
            "seed": recovery.seed,
            "blockwise": recovery.blockwise,
            "start": hash_digests(digest_tensors(model.state_dict())),
            "tokenizer": tokenizer_hash(tokenizer),
        }
    )
    if (early := bends_too_early(model, recovery.settings)) is not None:
        say(early)
    hooks.begun(name)
    size = max(1, _TOKENS_MEASURED_AT_ONCE // length)
    text = RecoveryText(rows.rows, rows.collate, length, list(held_out.batches(size)))
    run = RecoveryRun(
        folder,
        name,
        check=hooks.check,
        saved=hooks.saved,
        quiet=quiet,
        rows_per_forward=rows_per_forward,
        evaluate_every=evaluate_every,
        sharding=recovery.sharding,
    )
    if not recovery.blockwise:
        return distil_(model, original, text, recovery.settings, run, seed=recovery.seed), mixture.parts
    blocks, first = blocks_first_(
        model,
        original,
        rows,
        text.held_out,
        recovery.settings,
        length,
        folder,
        precision=training.precision,
        seed=recovery.seed,
        quiet=quiet,
        check=hooks.check,
    )
    say(f"{blocks.describe()}\nof the whole model: {first.describe()}")
    try:
        check_memory(model, original, recovery.settings, need, length)
    except SettingsError as error:
        say(f"the models do not fit for more than one block at a time, so it ends here: {error}")
        return first, mixture.parts
    return distil_(model, original, text, recovery.settings, run, seed=recovery.seed), mixture.parts


def bends_too_early(model: Any, settings: RecoverSettings) -> str | None:
    """What is amiss where curves are to be bent at once, and the model's measured gap says that it is not usable."""
    record = record_of(model)
    if settings.straighten is None or settings.straighten_after or record is None or record.measured is None:
        return None
    gap = record.measured["gap"]
    bent = [record.specs[site.path] for site in bent_sites(record, settings.straighten_sites)]
    if gap <= USABLE or all(isinstance(spec, FixedScale) for spec in bent):
        return None
    return (
        f"the model is {gap:+.1%} from its original, and bending its curves at once may ruin it: let it recover first "
        "(straighten_after: 0.4; --straighten-after 40% --straighten 80%)"
    )


def same_tokenizer(one: Any, other: Any, what: str, base: str) -> None:
    """A `ModelError` where two tokenizers differ."""
    if tokenizer_hash(one) != tokenizer_hash(other):
        raise ModelError(
            f"the tokenizer of {what} is not that of its base {base!r}, so the two models would read different texts. "
            "Save the swapped model with its base's tokenizer."
        )
