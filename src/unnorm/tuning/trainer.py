"""The training loop: transformers' Trainer, which does not decide parameter groups, loss, evaluation or restoring.

Rows come in a fixed order, once (the order is the data's business), so that every arm of one seed sees the same. What
is minimized is an objective's business; fine-tuning and recovery differ in it alone.
"""

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.distributed.tensor import DTensor
from torch.utils.data import DataLoader, SequentialSampler
from transformers import PrinterCallback, Trainer, TrainerCallback

from unnorm.foundation import precision, ranks, seeds
from unnorm.foundation.errors import Interrupted, NonFiniteError
from unnorm.foundation.memory import memory_in_use
from unnorm.foundation.processes import stop_asked
from unnorm.foundation.progress import Bar
from unnorm.metrics.batches import counted_tokens
from unnorm.norms.spec import Norm
from unnorm.surgery.finite import unbounded
from unnorm.surgery.packed_attention import packed_attention
from unnorm.tuning import checkpoint
from unnorm.tuning.arguments import plain_forward, plain_forward_after, training_arguments
from unnorm.tuning.compiled_blocks import check_blocks_compilable, compiled_blocks, uncompiled
from unnorm.tuning.device_rows import IDLE, DeviceRows, one_batch
from unnorm.tuning.objectives import CrossEntropy, Objective
from unnorm.tuning.parameter_groups import clip_gradients_, fusible, parameter_groups
from unnorm.tuning.relative import relative
from unnorm.tuning.run_log import RunLog
from unnorm.tuning.settings import TrainingSettings
from unnorm.tuning.sharded import gathered, sharded
from unnorm.tuning.site_monitor import SiteMonitor

_SKIPPED_IN_A_ROW = 20  # fp16 skips a step when its scaled gradient overflows; this many in a row is no accident


class TokenTrainer(Trainer):
    """Trains on rows in order, by sums of nats over all trained tokens of a step, on however many devices."""

    loss_is_scaled_for_ga = True

    def __init__(
        self,
        model: Any,
        settings: TrainingSettings,
        *,
        rows: Sequence[Any],
        collate: Callable[[Sequence[Any]], dict[str, torch.Tensor]],
        rows_per_step: int,
        rows_per_forward: int,
        run: str,
        folder: Path,
        seed: int,
        monitor: SiteMonitor,
        evaluate: Callable[[int], dict[str, Any]],
        evaluate_every: int,
        checkpoint_every: int,
        norms: Sequence[torch.nn.Module] = (),
        objective: Objective | None = None,
        before_step: Callable[[float], None] = lambda done: None,
        enough: Callable[[dict[str, Any]], bool] | None = None,
        note: Callable[[], str] = lambda: "",
        check: Callable[[], None] = lambda: None,
        saved: Callable[[int], None] = lambda step: None,
        report_to: Sequence[str] = (),
        quiet: bool = False,
    ) -> None:
        """norms: those whose parameters learn relatively and at their own rate, where they train. objective: what is
        minimized; the labels' cross-entropy unless given. check: called before anything is written; it raises if the
        run may not go on. saved: called after a checkpoint. evaluate: measures now, and returns loss and
        token_accuracy; called by every process, at intervals and after the last step. before_step: called with the
        share of the steps that are over. enough: whether what `evaluate` returned ends the run early. note: more words
        for the progress line. report_to: transformers' names of trackers, which get the log of each step.
        rows_per_forward: of all devices together."""
        settings = settings.model_copy(update={"precision": precision.choose(settings.precision).name})
        if settings.compile:
            check_blocks_compilable(settings.sharding)
        self.settings, self.run, self.folder = settings, run, folder
        self.log_file = RunLog(folder / "steps.jsonl")
        self.monitor, self.evaluate_now = monitor, evaluate
        self.evaluate_every, self.checkpoint_every = evaluate_every, checkpoint_every
        self.norms = list(norms)
        self.objective: Objective = objective or CrossEntropy(model)
        self.check, self.saved, self.enough, self.note = check, saved, enough, note
        self.before_step = before_step
        self.quiet = quiet
        self.rows_per_forward = rows_per_forward
        self.shards = settings.sharding == "fsdp" and ranks.count() > 1
        self.sums = torch.zeros(4, dtype=torch.float64)  # nats, correct, tokens, weight of the step, over all processes
        self.step_tokens = torch.zeros((), dtype=torch.int64)
        self.train_tokens = 0
        self.unclipped_norm = float("nan")
        self.learning_rate_used = settings.learning_rate
        self.skipped = 0
        super().__init__(
            model=model,
            args=training_arguments(settings, folder, run, rows_per_step, rows_per_forward, seed, report_to),
            train_dataset=list(rows),  # type: ignore[arg-type]
            data_collator=collate,
        )
        # What it calls a model that was sharded while it was loaded: placed, wrapped and saved by somebody else.
        self.is_distributed_loading_by_transformers = self.shards
        self.parameters: dict[str, torch.nn.Parameter] = {}
        """What trains, by name as it is while it trains."""
        self.norm_parameters: list[torch.nn.Parameter] = []
        self.remove_callback(PrinterCallback)
        self.step_callback = _StepCallback(self)
        self.add_callback(self.step_callback)

    def _move_model_to_device(self, model: Any, device: torch.device) -> None:
        if not self.shards:  # which puts each process's part there, block by block
            super()._move_model_to_device(model, device)  # type: ignore[no-untyped-call]

    @contextlib.contextmanager
    def _defer_fsdp_gradient_reduction(self) -> Iterator[None]:
        """Each micro-batch's gradients are shared at once: until the last one, each device would hold all of them."""
        yield

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        if self.optimizer is None:
            assert isinstance(self.model, torch.nn.Module)
            settings = self.settings
            rate = settings.norm_learning_rate if settings.norm_learning_rate is not None else settings.learning_rate
            groups = parameter_groups(self.model, settings.weight_decay, self.norm_parameters, rate)
            betas = (0.9, settings.adam_beta2)
            self.optimizer = torch.optim.AdamW(groups, lr=settings.learning_rate, betas=betas, fused=fusible(groups))
        return self.optimizer

    def compute_loss(  # type: ignore[override]
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> torch.Tensor:
        """Nats of this micro-batch over the weight of the whole step (its tokens, where no turn is weighted): gradients
        then add up to those of the mean.

        Data-parallel training averages gradients over processes, hence the factor.
        """
        counts_for_nothing = inputs.pop(IDLE, None) is not None
        sums = self.objective.sums(model, inputs, self.objective.weight(inputs) / num_items_in_batch)
        if counts_for_nothing:
            return sums.nats * 0
        counts = (sums.nats.detach(), sums.correct, sums.tokens, sums.weight)
        self.sums += torch.stack([count.double() for count in counts]).cpu()
        self.step_tokens += counted_tokens(inputs).sum().cpu()
        loss: torch.Tensor = sums.nats * (self.accelerator.num_processes / num_items_in_batch)
        return loss

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> torch.Tensor:
        weight = sum(self.objective.weight(batch) for batch in batch_samples if IDLE not in batch)
        total: torch.Tensor = self.accelerator.gather(torch.as_tensor(weight, device=device).reshape(1)).sum()
        return total if total > 0 else torch.ones_like(total)

    def _clip_grad_norm(self, model: Any) -> torch.Tensor:
        if any(isinstance(parameter, DTensor) for parameter in model.parameters()):
            norm: torch.Tensor = gathered(super()._clip_grad_norm(model))  # type: ignore[no-untyped-call]
        else:
            self.accelerator.unscale_gradients()
            norm = clip_gradients_(model.parameters(), self.args.max_grad_norm)
        self.unclipped_norm = float(norm)
        return norm

    def _get_train_sampler(self, train_dataset: Any = None) -> torch.utils.data.Sampler[Any]:
        return SequentialSampler(train_dataset if train_dataset is not None else self.train_dataset)  # type: ignore[arg-type]

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Over several processes, not accelerate's: that repeats rows until the last step has as many as the others."""
        if ranks.count() == 1:
            return super().get_train_dataloader()
        rows = DeviceRows(self.train_dataset, self.rows_per_forward)  # type: ignore[arg-type]
        return DataLoader(rows, batch_size=1, collate_fn=one_batch(self.data_collator))  # type: ignore[arg-type]

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        states = ranks.of_all(seeds.capture())
        content = checkpoint.content_of(self.parameters, _plain(self.optimizer), keep=self.args.should_save)
        if self.args.should_save:
            self.check()
            checkpoint.write(
                checkpoint.path_of(self.folder / "checkpoints", self.state.global_step),
                self.run,
                content,
                self.lr_scheduler,
                getattr(self.accelerator, "scaler", None),
                states,
                self.state,
            )
            self.saved(self.state.global_step)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        checkpoint.load_weights(Path(resume_from_checkpoint), self.parameters)

    def _load_optimizer_and_scheduler(self, checkpoint_path: str | None) -> None:  # type: ignore[override]
        if checkpoint_path is not None:
            checkpoint.load_optimizer(
                Path(checkpoint_path),
                self.parameters,
                _plain(self.optimizer),
                self.lr_scheduler,  # type: ignore[arg-type]
            )

    def _load_scaler(self, checkpoint_path: str | None) -> None:  # type: ignore[override]
        if checkpoint_path is not None:
            checkpoint.load_scaler(Path(checkpoint_path), getattr(self.accelerator, "scaler", None))

    def _load_rng_state(self, checkpoint_path: str | None) -> None:  # type: ignore[override]
        if checkpoint_path is not None:
            checkpoint.load_random(Path(checkpoint_path), self.args.process_index)

    @contextlib.contextmanager
    def _laid_out(self) -> Iterator[None]:
        """While open, the model is as it trains: its sites watched, its norms relative, its weights spread over the
        devices."""
        assert isinstance(self.model, torch.nn.Module)
        raw = self.settings.norm_parameters == "raw"
        plain = [p for norm in self.norms for p in norm.parameters() if p.requires_grad]
        with contextlib.ExitStack() as stack:
            stack.enter_context(plain_forward_after(self.model))
            stack.enter_context(self.monitor.watching())
            learning = stack.enter_context(relative([] if raw else self.norms))
            self.norm_parameters = plain if raw else learning
            if self.shards:
                spread = sharded(self.model, self.norm_parameters, self.args.device)
                self.norm_parameters = stack.enter_context(spread)
            # Now: after a forward pass some of a sharded model's parameters stand there whole.
            self.parameters = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
            both = [self.model, *self.objective.others]
            # A compiler would make a code for each row's texts.
            stack.enter_context(compiled_blocks(both) if self.settings.compile else packed_attention(*both))
            yield

    def gather_nothing(self) -> None:
        """Let go of what a forward pass without a backward pass has left gathered of a sharded model."""
        if self.shards:
            self.model.reshard()  # type: ignore[operator, union-attr]

    def fit(self, begin: Callable[[], object] = lambda: None) -> None:
        """Train to the end, from the newest checkpoint of this run if there is one. Raises `Interrupted`.

        begin: called once the model is laid out over the devices, before anything has learnt. Where it is sharded, what
        is measured has to be measured in there, and the model is on the CPU afterwards.
        """
        with self._laid_out(), stop_asked() as self.step_callback.asked:
            with uncompiled():
                begin()
            self.gather_nothing()
            last = ranks.of_main(checkpoint.latest(self.folder / "checkpoints"))
            step = checkpoint.step_of(last)
            if last is not None:
                checkpoint.check_run(last, self.run)
            if self.args.should_save:
                self.log_file.cut_after(step)
            records = ranks.of_main(self.log_file.read())
            self.train_tokens = records[-1]["train_tokens"] if step and records else 0
            if last is not None and self.enough is not None and step % self.evaluate_every == 0:
                checkpoint.load_weights(last, self.parameters)
                with uncompiled():
                    if self.enough(self.evaluate_now(step)):
                        return
            self.train(resume_from_checkpoint=str(last) if last else None)
        if self.step_callback.stopping:
            raise Interrupted


class _StepCallback(TrainerCallback):
    """After each step: the log, the checks, validation and checkpoints at their intervals, and a wish to stop."""

    def __init__(self, trainer: TokenTrainer) -> None:
        self.trainer = trainer
        self.asked: Callable[[], bool] = lambda: False
        """Whether this process was asked to stop."""
        self.stopping = False
        """Whether all of them stop after this step."""
        self.started = time.perf_counter()
        self.bar: Bar | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        quiet = self.trainer.quiet or not state.is_world_process_zero
        self.bar = Bar("training", state.max_steps, quiet=quiet).__enter__()
        self.bar.advance(state.global_step)
        # As before the step that was done last, also where none is left to do.
        self.trainer.before_step(min(state.global_step, state.max_steps - 1) / state.max_steps)
        self.started = time.perf_counter()

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.bar:
            self.bar.__exit__()

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer.before_step(state.global_step / state.max_steps)

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer.learning_rate_used = self.trainer.optimizer.param_groups[0]["lr"]  # type: ignore[union-attr]

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.started = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        trainer, step = self.trainer, state.global_step
        seconds = time.perf_counter() - self.started
        record = self._record(step, seconds)
        self._check_finite(record)
        if state.is_world_process_zero:
            trainer.check()
            trainer.log_file.append(record)
        if trainer.args.report_to:
            trainer.callback_handler.on_log(args, state, control, _flat(record))
        if self.bar:
            words = [f"{trainer.objective.name} {record['loss']:.3f}", f"{record['tokens_per_second']:,.0f} tokens/s"]
            self.bar.advance(1, ", ".join([*words, *filter(None, [trainer.note()])]))
        is_last = step >= state.max_steps
        if is_last or step % trainer.evaluate_every == 0:
            with plain_forward(trainer.model), uncompiled():
                held_out = trainer.evaluate_now(step)
            trainer.gather_nothing()
            is_last = is_last or (trainer.enough is not None and trainer.enough(held_out))
            if trainer.args.report_to:
                seen = {f"eval_{name}": held_out[name] for name in ("loss", "token_accuracy")}
                trainer.callback_handler.on_log(args, state, control, seen)
        self.stopping = self._agreed(self.asked())
        control.should_save = step % trainer.checkpoint_every == 0 or is_last or self.stopping
        control.should_training_stop = self.stopping or is_last
        if is_last:
            self.stopping = False
        self.started = time.perf_counter()

    def _agreed(self, asked: bool) -> bool:
        """Whether any process was asked to stop, so that all stop after the same step."""
        if ranks.joined() == 1:
            return asked
        trainer = self.trainer
        flag = torch.tensor(float(asked), device=trainer.args.device)
        return bool(trainer.accelerator.reduce(flag, "sum"))

    def _record(self, step: int, seconds: float) -> dict[str, Any]:
        trainer = self.trainer
        device = trainer.args.device
        sums = trainer.accelerator.reduce(trainer.sums.to(device), "sum")
        tokens = int(trainer.accelerator.reduce(trainer.step_tokens.to(device), "sum"))
        trainer.sums.zero_()
        trainer.step_tokens.zero_()
        trainer.train_tokens += tokens
        nats, correct, trained, weight = sums.tolist()
        return {
            "step": step,
            "train_tokens": trainer.train_tokens,
            "loss": nats / (weight or 1),
            "token_accuracy": correct / max(trained, 1),
            "grad_norm": trainer.unclipped_norm,
            "learning_rate": trainer.learning_rate_used,
            "tokens_per_second": tokens / seconds,
            "memory_bytes": memory_in_use(device),
            **trainer.monitor.read(),
        }

    def _check_finite(self, record: dict[str, Any]) -> None:
        trainer = self.trainer
        bad = [name for name in ("loss", "grad_norm") if not abs(record[name]) < float("inf")]
        overflow = bad == ["grad_norm"] and trainer.settings.precision == "fp16"
        trainer.skipped = trainer.skipped + 1 if overflow else 0
        if bad and not (overflow and trainer.skipped <= _SKIPPED_IN_A_ROW):
            raise NonFiniteError(
                f"{' and '.join(bad)} became non-finite at step {record['step']} "
                f"(learning rate {record['learning_rate']:.2e}). {_advice(record['step'], trainer.norms)} "
                "The log up to this step is kept."
            )


def _advice(step: int, norms: Sequence[torch.nn.Module]) -> str:
    if step == 1:
        return (
            "Nothing has learnt yet, so no learning rate helps. Use precision fp32; a deep model whose new norms are "
            "bare has to be fitted first (`unnorm swap --calibrate DATA --correct all`)."
        )
    if linear := unbounded(norm.spec for norm in norms if isinstance(norm, Norm)):
        return (
            f"Most likely a token ran away in its rows, since {linear} bounds none. Begin from a model whose MLPs kept "
            "their curves (`unnorm recover --straighten 70% --straighten-sites attention --straighten-sites final`), "
            "or recover this one on such text first (`unnorm recover --straighten 70%`)."
        )
    return "Lower the learning rate, lengthen the warm-up, or use precision fp32."


def _flat(record: dict[str, Any]) -> dict[str, float]:
    """A log record as trackers take it: `alpha/PATH` for each site, and the step, which they are told, left out."""
    flat: dict[str, float] = {}
    for name, value in record.items():
        flat |= {f"{name}/{path}": v for path, v in value.items()} if isinstance(value, dict) else {name: value}
    flat.pop("step")
    return flat


def _plain(optimizer: Any) -> torch.optim.Optimizer:
    return getattr(optimizer, "optimizer", optimizer)  # type: ignore[no-any-return]
