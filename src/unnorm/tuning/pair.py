"""A swapped model and its original, as a recovery wants them."""

from torch import nn

from unnorm.foundation.errors import ModelError
from unnorm.foundation.hashing import digest_tensors, hash_digests
from unnorm.surgery.swap import SwapRecord, record_of


def record_of_pair(model: nn.Module, original: nn.Module) -> SwapRecord:
    """The record of what was swapped in `model`. A `ModelError` if nothing is, or if `original` is no unswapped model
    beside it; whether its weights are those that were swapped is not looked at."""
    record = record_of(model)
    if record is None or not record.sites:
        raise ModelError("there is nothing to recover: this model has no swapped norms. Swap it first (unnorm.swap_).")
    if original is model or record_of(original) is not None:
        raise ModelError("recovery needs the original, unswapped model beside the swapped one. Load the base afresh.")
    return record


def check_base(record: SwapRecord, original: nn.Module) -> None:
    """A `ModelError` where the weights of `original` are not those that were swapped. Reads all of them."""
    if record.base_hash and hash_digests(digest_tensors(original.state_dict())) != record.base_hash:
        raise ModelError(
            f"the original is not the model that was swapped: its weights are not those of {record.base_name!r} as "
            "they were then. Load that base, in the same dtype."
        )
