"""The Lightning module that tunes a model on answers, and its callbacks: validation, saved state, progress."""

from __future__ import annotations

import gc
import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import ConstantLR, CosineAnnealingLR, LinearLR, LRScheduler, SequentialLR
from typing_extensions import override

from probes.answers import Example
from probes.answers.answer_model import AnswerBatch, AnswerModel
from probes.progress import counted
from probes.seeds import derive_seed
from probes.tuning.adapters import trainable
from probes.tuning.answer_scores import answer_loss, micro_batches_of
from probes.tuning.ranks import ALONE, Ranks
from probes.tuning.tuning_settings import TuningSettings

_log = logging.getLogger(__name__)


class InstructionTuner(LightningModule):
    """Minimises the mean cross-entropy of answer tokens, with one optimizer step per batch on any amount of memory.

    A batch is a list of examples. It is split into micro-batches whose gradients add up to the gradient of the mean
    over all answer tokens of the batch. When memory runs out, the size of the micro-batches is halved and the step
    repeated. Dropout depends only on the seed, the step and the rank, so a resumed run repeats what the killed run
    would have done. Checkpoints hold only the trainable weights.

    Ranks get the same batch, and each takes its share of the rows. Their gradients, too, add up to that of the mean
    over all answer tokens of the batch, whoever has more of them: one message sums them, once a step, so that a rank
    may have fewer micro-batches than another, none at all, or repeat them.

    Args:
        model: The model to tune; its parameters that require gradients are trained.
        settings: Learning rate, schedule, clipping and micro-batch size.
        total_steps: Optimizer steps of the whole tuning.
        seed: Decides dropout; 0 is a seed like any other.
        ranks: The processes that tune together.
    """

    def __init__(
        self, model: AnswerModel, settings: TuningSettings, *, total_steps: int, seed: int, ranks: Ranks = ALONE
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.strict_loading = False
        self.model, self.settings, self.total_steps, self.seed, self.ranks = model, settings, total_steps, seed, ranks
        self.micro_batch_tokens = settings.micro_batch_tokens
        self.tokens, self.seconds = 0, 0.0
        self.train()  # models are loaded in evaluation mode, where dropout is off

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Build AdamW over the trainable weights, and its learning-rate schedule."""
        settings = self.settings
        parameters = list(trainable(self.model).values())
        optimizer = AdamW(parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay)
        scheduler = learning_rate_schedule(optimizer, settings, total_steps=self.total_steps)
        return {"optimizer": optimizer, "lr_scheduler": scheduler}

    def training_step(self, batch: list[Example]) -> None:
        """Make one optimizer step.

        Raises:
            FloatingPointError: The loss is NaN or infinite.
        """
        start = time.monotonic()
        optimizer, scheduler = self.optimizers(), cast(LRScheduler, self.lr_schedulers())
        assert isinstance(optimizer, LightningOptimizer)
        loss = self.accumulate_gradient(batch)
        if not loss < float("inf"):
            raise FloatingPointError(
                f"The tuning loss is {loss} at step {self.global_step}. Set `tuning.learning_rate` lower."
            )
        if self.settings.gradient_clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(trainable(self.model).values(), self.settings.gradient_clip_norm)
        optimizer.step()
        scheduler.step()
        self.tokens += sum(example.num_inputs for example in batch)
        self.seconds += time.monotonic() - start
        self.log("tuning/loss", loss, batch_size=len(batch))

    def accumulate_gradient(self, batch: Sequence[Example]) -> float:
        """Set the gradient of the batch's mean loss, from as many micro-batches as memory requires.

        Returns:
            The mean cross-entropy over the batch's answer tokens, nats; of all ranks together.

        Raises:
            torch.OutOfMemoryError: A single sequence does not fit, or memory ran out where weights are divided.
        """
        answer_tokens = sum(len(example.answer) for example in batch)
        total = self.ranks.total(self._accumulate_share(batch, answer_tokens))
        self.ranks.sum_gradients(trainable(self.model).values())
        return total / answer_tokens

    def _accumulate_share(self, batch: Sequence[Example], answer_tokens: int) -> float:
        """Add up the gradients of this rank's rows; returns the sum of their losses."""
        while True:
            self.zero_grad(set_to_none=True)
            groups = micro_batches_of(batch, self.micro_batch_tokens, self.ranks)
            try:
                with self._seeded_dropout():
                    return self._backward(groups, answer_tokens)
            except torch.OutOfMemoryError as error:
                if self.ranks.sharded:  # the other ranks are in the middle of a pass that this one cannot repeat alone
                    raise torch.OutOfMemoryError(
                        f"Memory ran out in passes of {self.micro_batch_tokens} tokens, which are not halved where "
                        "weights are divided. Set `tuning.micro_batch_tokens` lower."
                    ) from error
                if all(len(group) == 1 for group, _ in groups):
                    raise torch.OutOfMemoryError(
                        "Memory ran out on a single sequence. Set `tuning.max_length` smaller."
                    ) from error
            # Outside `except`, where the error's traceback would keep the activations alive.
            self._halve([group for group, _ in groups])

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Drop the frozen weights; add the micro-batch size that memory allows and the counters."""
        names = set(trainable(self))
        checkpoint["state_dict"] = {k: v for k, v in checkpoint["state_dict"].items() if k in names}
        checkpoint["tuning"] = [self.micro_batch_tokens, self.tokens, self.seconds]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the micro-batch size and the counters."""
        self.micro_batch_tokens, self.tokens, self.seconds = checkpoint["tuning"]

    def _backward(self, groups: Sequence[tuple[Sequence[Example], float]], answer_tokens: int) -> float:
        total = torch.zeros((), dtype=torch.float64, device=self.model.device)
        for group, weight in groups:
            losses = self.model(AnswerBatch.of(group, device=self.model.device))  # (answer tokens of the group,)
            self.manual_backward(weight * losses.sum() / answer_tokens)
            total += weight * losses.detach().double().sum()
        return total.item()

    def _halve(self, groups: Sequence[Sequence[Example]]) -> None:
        used = max(len(group) * group[0].num_inputs for group in groups)
        self.micro_batch_tokens = min(used, self.micro_batch_tokens) // 2
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        _log.warning(
            "Memory ran out: from now on a forward pass has at most %d tokens (`tuning.micro_batch_tokens`). An "
            "optimizer step still has %d sequences.",
            self.micro_batch_tokens,
            self.settings.batch_size,
        )

    @contextmanager
    def _seeded_dropout(self) -> Iterator[None]:
        step = 0 if self._trainer is None else self.global_step
        cuda = [self.model.device.index or 0] if self.model.device.type == "cuda" else []
        with torch.random.fork_rng(devices=cuda):
            of_rank = [self.ranks.number] if self.ranks.number else []
            torch.manual_seed(derive_seed(self.seed, "tuning step", step, *of_rank))
            yield


def learning_rate_schedule(optimizer: Optimizer, settings: TuningSettings, *, total_steps: int) -> LRScheduler:
    """The learning rate rises linearly during the warm-up, then follows `settings.schedule`.

    With W warm-up steps, step s (from 0) has (s + 1) / W of the full rate: every step changes the weights, also the
    only step of a tuning. transformers' schedules have s / W, so their first step changes nothing. `cosine` and
    `linear` start at the full rate at step W and would reach 0 at step `total_steps`, one past the last.

    Args:
        optimizer: Its learning rate is the full one.
        settings: The schedule's name, and the share of steps, rounded up to W, that belong to the warm-up.
        total_steps: Optimizer steps of the whole tuning.
    """
    warmup = math.ceil(settings.warmup_share * total_steps)
    remaining = max(1, total_steps - warmup)
    if settings.schedule == "cosine":
        decay: LRScheduler = CosineAnnealingLR(optimizer, T_max=remaining)
    elif settings.schedule == "linear":
        decay = LinearLR(optimizer, start_factor=1.0, end_factor=0.0, total_iters=remaining)
    else:
        decay = ConstantLR(optimizer, factor=1.0)
    if warmup == 0:
        return decay
    rise = LinearLR(optimizer, start_factor=1 / warmup, total_iters=warmup - 1)
    return SequentialLR(optimizer, [rise, decay], milestones=[warmup])


class AnswerValidation(Callback):
    """Measures the loss on validation rows at regular steps and at the last step.

    With a patience, tuning stops after that many measurements without a new lowest loss, and restores the weights that
    had the lowest.

    Args:
        examples: Validation rows; nothing is measured if there are none.
        every_n_steps: Optimizer steps between measurements.
        patience: Measurements without a new lowest loss after which tuning stops; `None` never stops.
    """

    def __init__(self, examples: Sequence[Example], *, every_n_steps: int, patience: int | None = None) -> None:
        self.examples, self.every_n_steps, self.patience = examples, every_n_steps, patience
        self.losses: dict[int, float] = {}
        self.best_weights: dict[str, Tensor] = {}

    @property
    def best_step(self) -> int | None:
        """The step whose weights are restored; `None` if the last step's weights are kept."""
        return min(self.losses, key=lambda step: self.losses[step]) if self.best_weights else None

    @property
    def measurements_since_best(self) -> int:
        """Number of measurements after the lowest loss."""
        losses = list(self.losses.values())
        return len(losses) - 1 - losses.index(min(losses)) if losses else 0

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop at once if patience had run out when the checkpoint was saved."""
        self._stop_if_due(trainer)

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Measure the loss if it is due at this step."""
        assert isinstance(pl_module, InstructionTuner)
        step = trainer.global_step
        if self.examples and (step % self.every_n_steps == 0 or step == pl_module.total_steps):
            tokens, ranks = pl_module.micro_batch_tokens, pl_module.ranks
            self.losses[step] = answer_loss(pl_module.model, self.examples, micro_batch_tokens=tokens, ranks=ranks)
            pl_module.log("tuning/validation_loss", self.losses[step], batch_size=len(self.examples))
            if self.patience is not None and self.measurements_since_best == 0:
                self.best_weights = {k: p.detach().cpu().clone() for k, p in trainable(pl_module.model).items()}
            self._stop_if_due(trainer)

    @override
    @torch.no_grad()
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restore the weights with the lowest loss if there is a patience."""
        assert isinstance(pl_module, InstructionTuner)
        for name, parameter in trainable(pl_module.model).items():
            if name in self.best_weights:
                parameter.copy_(self.best_weights[name])

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs."""
        return {"losses": self.losses, "best_weights": self.best_weights}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what a checkpoint holds."""
        self.losses, self.best_weights = dict(state_dict["losses"]), dict(state_dict["best_weights"])

    def _stop_if_due(self, trainer: Trainer) -> None:
        if self.patience is not None and self.measurements_since_best >= self.patience:
            trainer.should_stop = True


class StepCheckpoint(Checkpoint):
    """Saves the whole state of a tuning at regular steps, each time over the previous file.

    It is not a `ModelCheckpoint`, which under manual optimisation would save the weights from before the step.

    Args:
        path: The file.
        every_n_steps: Optimizer steps between saves.
    """

    def __init__(self, path: Path, *, every_n_steps: int) -> None:
        self.path, self.every_n_steps = path, every_n_steps

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save if it is due at this step; Lightning replaces the file as a whole."""
        if trainer.global_step % self.every_n_steps == 0:
            trainer.save_checkpoint(self.path)


class StepProgress(Callback):
    """Shows how many optimizer steps of a training are done and how long the others will take.

    Args:
        what: Name of the steps, such as `steps on 'sst2'`.
        total: Number of all steps; steps that were made before a training was resumed count as done.
    """

    def __init__(self, what: str, *, total: int) -> None:
        super().__init__()
        self._what, self._total = what, total
        self._bar, self._step = ExitStack(), 0
        self._count: Callable[[], None] = lambda: None

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._step = trainer.global_step
        self._count = self._bar.enter_context(counted(self._what, total=self._total, done=self._step))

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        while self._step < trainer.global_step:
            self._step += 1
            self._count()

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._bar.close()

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._bar.close()
