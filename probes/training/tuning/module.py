"""Instruction tuning of a causal language model as a Lightning module."""

from __future__ import annotations

import gc
import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from lightning import LightningModule
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from ..seeds import derive_seed
from .adapters import trainable
from .answer_model import AnswerBatch, AnswerModel
from .batches import micro_batches
from .examples import Example
from .schedule import learning_rate_share
from .settings import TuningSettings

_log = logging.getLogger(__name__)


class InstructionTuner(LightningModule):
    """Trains the mean cross-entropy of answer tokens, one optimiser step a batch whatever the memory.

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
        """Make one optimiser step.

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
            "optimiser step stays %d sequences.",
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
