"""The Lightning trainer of a tuning, and its processes: with `trainer=ddp` all of them tune one model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from lightning import Callback, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.strategies import DDPStrategy
from typing_extensions import override

from probes.trainers import TrainerFactory, leave_process_group_at_exit, root_of_trainers
from probes.tuning.ranks import ALONE, Ranks
from probes.tuning.tuning_settings import TuningSettings


class TogetherStrategy(DDPStrategy):
    """Lightning's processes and process group, without a wrapper around the model.

    The ranks of a step have micro-batches of different numbers, and repeat them when memory runs out. So
    `InstructionTuner` sums gradients itself, once a step, in place of `DistributedDataParallel` at every backward pass.
    """

    @override
    def configure_ddp(self) -> None:
        """Leave the model as it is."""


def ranks_of(trainer: TrainerFactory, settings: TuningSettings) -> tuple[Ranks, torch.device | None]:
    """Start or join the processes that a trainer asks for.

    Under torchrun or SLURM they are there already. Otherwise Lightning starts the command anew for each further one.

    Returns:
        The ranks, and the device of this one; `None` where the trainer asks for one process, which tunes on the device
        of its backbone.

    Raises:
        ValueError: `settings.shard_weights` is set, and there is one process.
    """
    asked = trainer(logger=False, callbacks=[], enable_checkpointing=False, enable_progress_bar=False)
    if asked.world_size == 1:
        if settings.shard_weights:
            raise ValueError(
                "`tuning.shard_weights=true` divides frozen weights among the processes of a job, and the trainer has "
                "one process. Set `trainer=ddp` and start `torchrun --nproc-per-node=N train.py …`, or set "
                "`tuning.shard_weights=false`."
            )
        return ALONE, None
    leave_process_group_at_exit()
    strategy = _together(trainer).strategy
    assert isinstance(strategy, TogetherStrategy)
    assert strategy.launcher is not None
    strategy.launcher.launch(strategy.setup_environment)
    return Ranks(strategy.global_rank, strategy.world_size, settings.shard_weights), strategy.root_device


def make_trainer(
    trainer: TrainerFactory, device: torch.device, callbacks: Sequence[Callback], ranks: Ranks = ALONE
) -> Trainer:
    """A trainer for one tuning.

    Args:
        trainer: Makes Lightning trainers.
        device: Of the model, where there is one rank; ranks have the devices that the trainer gives them.
        callbacks: Of the tuning.
        ranks: As `ranks_of` found them.
    """
    overrides: dict[str, Any] = {
        "max_epochs": 1,  # the loader serves all epochs as one
        "max_steps": -1,
        "precision": "32-true",  # `AnswerModel` decides the precision of matrix products
        "gradient_clip_val": None,
        "accumulate_grad_batches": 1,
        "limit_val_batches": 0,
        "num_sanity_val_steps": 0,
        "use_distributed_sampler": False,
        "default_root_dir": root_of_trainers(),
        "enable_checkpointing": any(isinstance(callback, Checkpoint) for callback in callbacks),
        "callbacks": list(callbacks),
    }
    if ranks.size > 1:
        return _together(trainer, **overrides)
    return trainer(
        **overrides,
        accelerator="gpu" if device.type == "cuda" else device.type,
        devices=[device.index or 0] if device.type == "cuda" else 1,
        num_nodes=1,
        strategy="auto",
    )


def _together(trainer: TrainerFactory, **overrides: Any) -> Trainer:
    return trainer(**{"callbacks": [], "enable_checkpointing": False} | overrides, strategy=TogetherStrategy())
