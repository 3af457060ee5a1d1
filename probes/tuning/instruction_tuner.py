"""Saves the state of a tuning at fixed steps."""

from __future__ import annotations

import gc
import logging
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR
from typing_extensions import override

from probes.seeds import derive_seed
from probes.tuning.adapters import trainable
from probes.tuning.answer_model import AnswerBatch, AnswerModel
from probes.tuning.answer_scores import answer_loss
from probes.tuning.examples import Example, micro_batches
from probes.tuning.tuning_settings import TuningSettings


def learning_rate_share(step: int, *, total_steps: int, warmup_share: float, schedule: str) -> float:
    """Share of the top learning rate at a step, in [0, 1].

    Args:
        step: Steps made so far, from 0.
        total_steps: Steps of the whole tuning.
        warmup_share: Share of the steps, rounded up, in which it rises linearly; the first is above 0, the last at 1.
        schedule: What follows: `cosine` or `linear` towards 0, which it would reach one step past the last, or
            `constant`.

    >>> [round(learning_rate_share(s, total_steps=6, warmup_share=0.3, schedule="linear"), 2) for s in range(6)]
    [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]
    """
    warmup = math.ceil(warmup_share * total_steps)
    if step < warmup:
        return (step + 1) / warmup
    past = (step - warmup) / max(1, total_steps - warmup)
    if schedule == "cosine":
        return max(0.0, (1 + math.cos(math.pi * past)) / 2)
    return max(0.0, 1 - past) if schedule == "linear" else 1.0


_log = logging.getLogger(__name__)


class InstructionTuner(LightningModule):
    """Trains the mean cross-entropy of answer tokens, one optimizer step a batch whatever the memory.

    A batch is a list of examples. It is parted into micro-batches whose gradients add up to that of the whole batch's
    mean over answer tokens. When memory runs out, micro-batches are halved and the step is made anew. Dropout at a step
    depends on the seed and the step alone, so a resumed run repeats what the killed one would have done. Checkpoints
    hold trainable weights only.

    Args:
        model: What is tuned; its trainable parameters are those that require gradients.
        settings: Learning rate, schedule, clipping, micro-batches.
        total_steps: Steps of the whole tuning.
        seed: Decides dropout; 0 is a seed like any other.
    """

    def __init__(self, model: AnswerModel, settings: TuningSettings, *, total_steps: int, seed: int) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.strict_loading = False
        self.model, self.settings, self.total_steps, self.seed = model, settings, total_steps, seed
        self.micro_batch_tokens = settings.micro_batch_tokens
        self.tokens, self.seconds = 0, 0.0
        self.train()  # models are loaded in eval mode, their dropout off

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Build AdamW over the trainable weights, and the schedule of its learning rate."""
        settings = self.settings
        parameters = list(trainable(self.model).values())
        optimizer = AdamW(parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay)
        share = partial(
            learning_rate_share,
            total_steps=self.total_steps,
            warmup_share=settings.warmup_share,
            schedule=settings.schedule,
        )
        return {"optimizer": optimizer, "lr_scheduler": LambdaLR(optimizer, share)}

    def training_step(self, batch: list[Example]) -> None:
        """Make one optimizer step.

        Raises:
            FloatingPointError: The loss is NaN or infinite.
        """
        start = time.monotonic()
        optimizer, scheduler = self.optimizers(), self.lr_schedulers()
        assert isinstance(optimizer, LightningOptimizer)
        assert isinstance(scheduler, LambdaLR)
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
        """Set the gradient of the batch's mean loss, in as many turns as memory asks for.

        Returns:
            The mean over the batch's answer tokens, nats.

        Raises:
            torch.OutOfMemoryError: Not even one sequence fits.
        """
        while True:
            self.zero_grad(set_to_none=True)
            groups = micro_batches(batch, self.micro_batch_tokens)
            try:
                with self._own_randomness():
                    return self._backward(groups)
            except torch.OutOfMemoryError as error:
                if len(groups) == len(batch):
                    raise torch.OutOfMemoryError(
                        "Memory ran out on a single sequence. Set `tuning.max_length` smaller."
                    ) from error
            self._halve(groups)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Leave frozen weights out, and keep what was learnt about memory and the counts."""
        names = set(trainable(self))
        checkpoint["state_dict"] = {k: v for k, v in checkpoint["state_dict"].items() if k in names}
        checkpoint["tuning"] = [self.micro_batch_tokens, self.tokens, self.seconds]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take up where the checkpoint was saved."""
        self.micro_batch_tokens, self.tokens, self.seconds = checkpoint["tuning"]

    def _backward(self, groups: Sequence[Sequence[Example]]) -> float:
        answer_tokens = sum(len(example.answer) for group in groups for example in group)
        total = torch.zeros((), dtype=torch.float64, device=self.model.device)
        for group in groups:
            losses = self.model(AnswerBatch.of(group, device=self.model.device))
            self.manual_backward(losses.sum() / answer_tokens)
            total += losses.detach().double().sum()
        return total.item() / answer_tokens

    def _halve(self, groups: Sequence[Sequence[Example]]) -> None:
        used = max(len(group) * group[0].num_inputs for group in groups)
        self.micro_batch_tokens = min(used, self.micro_batch_tokens) // 2
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        _log.warning(
            "Memory ran out: from now on %d tokens a forward pass (`tuning.micro_batch_tokens`). The batch of an "
            "optimizer step stays %d sequences.",
            self.micro_batch_tokens,
            self.settings.batch_size,
        )

    @contextmanager
    def _own_randomness(self) -> Iterator[None]:
        step = 0 if self._trainer is None else self.global_step
        cuda = [self.model.device.index or 0] if self.model.device.type == "cuda" else []
        with torch.random.fork_rng(devices=cuda):
            torch.manual_seed(derive_seed(self.seed, "tuning step", step))
            yield


class AnswerValidation(Callback):
    """Measures the loss on validation rows at fixed steps and at the last.

    With a patience, tuning stops after so many measurements without a new lowest, and ends with the weights of the
    lowest.

    Args:
        examples: Validation rows; none are measured if empty.
        every_n_steps: Optimizer steps between measurements.
        patience: Measurements without a lower loss after which tuning stops; `None` never stops.
    """

    def __init__(self, examples: Sequence[Example], *, every_n_steps: int, patience: int | None = None) -> None:
        self.examples, self.every_n_steps, self.patience = examples, every_n_steps, patience
        self.losses: dict[int, float] = {}
        self.best_weights: dict[str, Tensor] = {}

    @property
    def best_step(self) -> int | None:
        """The step whose weights are kept; `None` if it is the last."""
        return min(self.losses, key=lambda step: self.losses[step]) if self.best_weights else None

    @property
    def waited(self) -> int:
        """Measurements since the lowest."""
        losses = list(self.losses.values())
        return len(losses) - 1 - losses.index(min(losses)) if losses else 0

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stay stopped if the checkpoint was saved when patience had run out."""
        self._stop_if_due(trainer)

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Measure at due steps."""
        assert isinstance(pl_module, InstructionTuner)
        step = trainer.global_step
        if self.examples and (step % self.every_n_steps == 0 or step == pl_module.total_steps):
            tokens = pl_module.micro_batch_tokens
            self.losses[step] = answer_loss(pl_module.model, self.examples, micro_batch_tokens=tokens)
            pl_module.log("tuning/validation_loss", self.losses[step], batch_size=len(self.examples))
            if self.patience is not None and self.waited == 0:
                self.best_weights = {k: p.detach().cpu().clone() for k, p in trainable(pl_module.model).items()}
            self._stop_if_due(trainer)

    @override
    @torch.no_grad()
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Go back to the weights of the lowest loss, if patience was asked for."""
        assert isinstance(pl_module, InstructionTuner)
        for name, parameter in trainable(pl_module.model).items():
            if name in self.best_weights:
                parameter.copy_(self.best_weights[name])

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run goes on from."""
        return {"losses": self.losses, "best_weights": self.best_weights}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from what a checkpoint holds."""
        self.losses, self.best_weights = dict(state_dict["losses"]), dict(state_dict["best_weights"])

    def _stop_if_due(self, trainer: Trainer) -> None:
        if self.patience is not None and self.waited >= self.patience:
            trainer.should_stop = True


class StepCheckpoint(Checkpoint):
    """Saves the whole state after every so many optimizer steps, each time over the last.

    Not a `ModelCheckpoint`, which under manual optimisation would save weights of before the step.

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
        """Save at due steps; Lightning writes whole files or none."""
        if trainer.global_step % self.every_n_steps == 0:
            trainer.save_checkpoint(self.path)
