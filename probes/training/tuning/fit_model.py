"""One tuning under Lightning: a model in memory, made better at answers in place."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, Trainer

from ..seeds import derive_seed
from ..train_bank import TrainerFactory
from .adapters import effect_digest
from .answer_model import AnswerModel
from .batches import TuningDataModule
from .checkpoint import StepCheckpoint
from .examples import Encoded
from .module import InstructionTuner
from .settings import TuningSettings
from .validation import AnswerValidation

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FitReport:
    """What a tuning did.

    Attributes:
        steps: Optimiser steps behind the weights.
        tokens: Tokens read in training, pads left out.
        seconds: Time of all steps.
        validation_losses: Step → mean cross-entropy of answer tokens on the validation split, nats.
        micro_batch_tokens: What memory allowed.
    """

    steps: int
    tokens: int
    seconds: float
    validation_losses: dict[int, float]
    micro_batch_tokens: int


def fit_model(
    model: AnswerModel,
    data: Encoded,
    settings: TuningSettings,
    *,
    trainer: TrainerFactory,
    seed: int,
    checkpoint: Path,
    callbacks: Sequence[Callback] = (),
) -> FitReport:
    """Tune a model in place, on its own device.

    Args:
        model: Its trainable parameters are those that require gradients.
        data: Training and validation examples.
        settings: How to tune.
        trainer: Makes the Lightning trainer.
        seed: Decides order and dropout.
        checkpoint: Where the state is saved, and from where it goes on if it is there.
        callbacks: Go along with the training.

    Raises:
        ValueError: Steps were made and nothing changed.
    """
    examples, seed, before = data["train"], derive_seed(seed, "tuning"), effect_digest(model)
    total_steps, device = settings.total_steps(len(examples)), model.device
    module = InstructionTuner(model, settings, total_steps=total_steps, seed=seed)
    batches = TuningDataModule(examples, settings.batch_size, total_steps=total_steps, seed=seed)
    interval = settings.validation_interval(len(examples))
    validation = AnswerValidation(data["validation"], every_n_steps=interval, patience=settings.patience)
    every = settings.checkpoint_every_n_steps
    saving = [] if every is None else [StepCheckpoint(checkpoint, every_n_steps=every)]
    lightning = _make_trainer(trainer, device, [validation, *saving, *callbacks])
    if checkpoint.exists():
        _log.info("Tuning goes on from its last checkpoint.")
        lightning.fit(module, datamodule=batches, ckpt_path=checkpoint, weights_only=True)
    else:
        lightning.fit(module, datamodule=batches)
    model.to(device)  # Lightning leaves it on the CPU
    if effect_digest(model) == before:
        raise ValueError(
            f"Tuning made {lightning.global_step} steps and changed nothing: no gradient reaches what is trained. "
            "Set `tuning.target_modules` to modules that act on the answer, or `tuning.learning_rate` higher."
        )
    steps = lightning.global_step if validation.best_step is None else validation.best_step
    return FitReport(steps, module.tokens, module.seconds, validation.losses, module.micro_batch_tokens)


def _make_trainer(trainer: TrainerFactory, device: torch.device, callbacks: Sequence[Callback]) -> Trainer:
    overrides: dict[str, Any] = {
        "max_epochs": 1,  # the loader serves all passes in a row
        "max_steps": -1,
        "accelerator": "gpu" if device.type == "cuda" else device.type,
        "devices": [device.index or 0] if device.type == "cuda" else 1,
        "strategy": "auto",
        "precision": "32-true",  # the model itself knows what it multiplies in
        "gradient_clip_val": None,
        "accumulate_grad_batches": 1,
        "limit_val_batches": 0,
        "num_sanity_val_steps": 0,
        "use_distributed_sampler": False,
        "enable_checkpointing": any(isinstance(callback, StepCheckpoint) for callback in callbacks),
        "callbacks": list(callbacks),
    }
    return trainer(**overrides)
