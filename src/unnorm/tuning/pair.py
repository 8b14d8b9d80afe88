"""A swapped model and its original, as a recovery wants them; or an original that is recovered beside itself."""

from torch import nn

from unnorm.foundation.errors import ModelError
from unnorm.foundation.hashing import digest_tensors, hash_digests
from unnorm.surgery.sites import reached_sites
from unnorm.surgery.swap import SwapRecord, record_of

_NOTHING = "there is nothing to recover: this model has no swapped norms. Swap it first (unnorm.swap_)."


def record_of_pair(model: nn.Module, original: nn.Module) -> SwapRecord:
    """The record of what was swapped in `model`. A `ModelError` if nothing is, or if `original` is no unswapped model
    beside it; whether its weights are those that were swapped is not looked at."""
    record = record_beside(model, original)
    if not record.sites:
        raise ModelError(_NOTHING)
    return record


def record_beside(model: nn.Module, original: nn.Module) -> SwapRecord:
    """The same of a model in which nothing need be swapped, if what its base is was kept (`keep_base_`)."""
    record = record_of(model)
    if record is None:
        raise ModelError(_NOTHING)
    if original is model or record_of(original) is not None:
        raise ModelError("recovery needs the original, unswapped model beside the swapped one. Load the base afresh.")
    return record


def norm_paths(model: nn.Module, record: SwapRecord) -> list[str]:
    """Paths of the norms that learn relatively in a recovery: the swapped ones, or all pretrained ones where none are
    swapped."""
    return [site.path for site in record.sites] or [site.path for site in reached_sites(model)]


def check_base(record: SwapRecord, original: nn.Module) -> None:
    """A `ModelError` where the weights of `original` are not those that were swapped. Reads all of them."""
    if record.base_hash and hash_digests(digest_tensors(original.state_dict())) != record.base_hash:
        raise ModelError(
            f"the original is not the model that was swapped: its weights are not those of {record.base_name!r} as "
            "they were then. Load that base, in the same dtype."
        )
