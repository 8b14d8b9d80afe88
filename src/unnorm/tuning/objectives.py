"""What a training run minimizes: the loss on labels or on every token, or the divergence from an original model.

All are sums over tokens, to be divided by the weight of a whole step: never means of means.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch

from unnorm.metrics.batches import counted_tokens, followed_tokens
from unnorm.metrics.divergence import Divergence, divergence
from unnorm.metrics.output_layer import hidden_states
from unnorm.metrics.token_sums import IGNORED, TokenSums, all_labelled, token_sums
from unnorm.surgery.base import under_adapters
from unnorm.tuning.recover_settings import Minimized
from unnorm.tuning.stream_sizes import StreamSizes


class Objective(Protocol):
    """name: what the log of a step calls the loss for people. others: models that it runs beside the learning one."""

    name: str
    others: Sequence[torch.nn.Module]

    def sums(self, model: Any, batch: Mapping[str, torch.Tensor], share: torch.Tensor | float = 1.0) -> TokenSums:
        """What the batch [B, T] adds to a step; `nats` has the gradient. share: of the step's weight that is the
        batch's."""

    def weight(self, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """What the nats of a batch are to be divided by, known before it is run."""


class CrossEntropy:
    """−log p of the labelled tokens, in nats."""

    name = "loss"
    others: Sequence[torch.nn.Module] = ()

    def __init__(self, model: Any) -> None:
        self.head = under_adapters(model).get_output_embeddings()

    def sums(self, model: Any, batch: Mapping[str, torch.Tensor], share: torch.Tensor | float = 1.0) -> TokenSums:
        return token_sums(model, self.head, batch)

    def weight(self, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The number of labels, or the sum of their weights."""
        if "weights" in batch:
            return torch.as_tensor((batch["weights"] * batch["labels"].ne(IGNORED))[:, 1:].sum())
        return torch.as_tensor(batch["labels"][:, 1:].ne(IGNORED).sum())


class EveryToken:
    """−log p of every token that follows another of its text, in nats; what the batch labels or weights is ignored."""

    name = "loss"
    others: Sequence[torch.nn.Module] = ()

    def __init__(self, model: Any, precision: str) -> None:
        """precision: as for `Distillation`."""
        self.head = under_adapters(model).get_output_embeddings()
        self.precision = precision

    def sums(self, model: Any, batch: Mapping[str, torch.Tensor], share: torch.Tensor | float = 1.0) -> TokenSums:
        with autocast(batch["input_ids"].device, self.precision):
            return token_sums(model, self.head, all_labelled(batch))

    def weight(self, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        return followed_tokens(batch).sum()


class Distillation:
    """KL(original ‖ model) of every token in nats; what counts as correct is the original's likeliest token."""

    name = "KL"

    def __init__(self, model: Any, original: Any, precision: str, sizes: StreamSizes | None = None) -> None:
        """precision: `bf16` puts both models' products and those of their heads under autocast. sizes: while it counts,
        what it has to say of the model's tokens is added, rows in which one has run away are left out, and arbitrary
        tokens are distilled beside each batch."""
        self.head = under_adapters(model).get_output_embeddings()
        self.original, self.precision, self.sizes = original, precision, sizes
        self.others: Sequence[torch.nn.Module] = (original,)

    def sums(self, model: Any, batch: Mapping[str, torch.Tensor], share: torch.Tensor | float = 1.0) -> TokenSums:
        with autocast(batch["input_ids"].device, self.precision):
            if self.sizes is None or not self.sizes.counts:
                found = self._divergence(model, batch)
            else:
                found = self._of_sizes(model, batch, self.sizes, share)
        return TokenSums(found.nats, found.agreed, found.tokens, self.weight(batch).float())

    def _of_sizes(
        self, model: Any, batch: Mapping[str, torch.Tensor], sizes: StreamSizes, share: torch.Tensor | float
    ) -> Divergence:
        """The divergence of a batch, to whose nats those of the worst of some rows of arbitrary tokens are added: times
        `share`, so that the batches of a step add one such row to it, however many they are."""
        found = self._kept_in_size(model, batch, sizes)
        drawn = sizes.arbitrary(batch, self.original.config.get_text_config().vocab_size)
        strange = sizes.worst(drawn, lambda rows: hidden_states(model, self.head, rows))
        return found._replace(nats=found.nats + share * self._kept_in_size(model, strange, sizes).nats)

    def _kept_in_size(self, model: Any, batch: Mapping[str, torch.Tensor], sizes: StreamSizes) -> Divergence:
        """The divergence without rows in which a token has run away, and with the penalty in its nats."""
        with sizes.watching(batch):
            found = self._divergence(model, batch, leave_out=lambda: sizes.judged()[1])
            return found._replace(nats=found.nats + sizes.judged()[0])

    def _divergence(self, model: Any, batch: Mapping[str, torch.Tensor], **options: Any) -> Divergence:
        return divergence(model, self.head, self.original, self.original.get_output_embeddings(), batch, **options)

    def weight(self, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        return counted_tokens(batch).sum()


def objective_of(
    minimized: Minimized, model: Any, original: Any, precision: str, sizes: StreamSizes | None = None
) -> Objective:
    """What a recovery minimizes: `kl` from the original, or `ce` on every token. sizes: as for `Distillation`."""
    return EveryToken(model, precision) if minimized == "ce" else Distillation(model, original, precision, sizes)


def autocast(device: torch.device, precision: str) -> AbstractContextManager[Any]:
    """Autocast to bf16 where `precision` says so."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")
