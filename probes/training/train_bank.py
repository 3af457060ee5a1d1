"""Training the bank of one task, in as many turns as memory asks for."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from probes.architectures import LinearProbe
from probes.metrics import TargetKind
from probes.seeds import derive_seed
from probes.trainers import TrainerFactory, quiet_lightning
from probes.training.bank.minibatch_module import MinibatchProbeModule
from probes.training.bank.probe_bank import ProbeBank
from probes.training.bank.probe_module import Standardiser, row_batched_logits
from probes.training.data_module import ActivationDataModule, Rows
from probes.training.linear_solver.solve import penalties_per_batch
from probes.training.linear_solver.solver_module import ExactProbeModule
from probes.training.probe_settings import ProbeSettings
from probes.training.task_data import TaskData
from probes.values import Layer


@dataclass(frozen=True)
class BankSpec:
    """What decides a bank beside its rows.

    Attributes:
        task_data: The task the rows are of.
        layers: Names of the layers, fewer than the task's where some are constant or trained in another turn.
        num_classes: Width of the logits.
        exact: Solve for the optimum instead of training by minibatches.
        settings: How probes are trained.
        trainer_factory: Makes the trainers.
        seed: Decides starts, dropout and the order of rows.
    """

    task_data: TaskData
    layers: tuple[Layer, ...]
    num_classes: int
    exact: bool
    settings: ProbeSettings
    trainer_factory: TrainerFactory
    seed: int

    @property
    def kind(self) -> TargetKind:
        """Kind of task."""
        return self.task_data.kind


@dataclass(frozen=True)
class TrainedBank:
    """Trained probes of every layer, penalty and control.

    Attributes:
        bank: Replicas are ordered by penalty, then control.
        standardiser: Statistics of the training rows.
        target_mean: Added to what a regression probe answers, after scaling; 0 otherwise.
        target_deviation: Scale of what a regression probe answers; 1 otherwise.
        gaps: Certificates `(layers, penalties, controls)`: the exact solver's bound on the relative distance to the
            optimum; NaN for minibatches; infinite for a probe that never had a finite loss.
    """

    bank: ProbeBank
    standardiser: Standardiser
    target_mean: float
    target_deviation: float
    gaps: Tensor

    def logits(self, values: Tensor) -> Tensor:
        """Logits `(layers, penalties, controls, rows, classes)` of raw activations `(layers, rows, features)`."""
        logits = row_batched_logits(self.bank, self.standardiser, values)
        return logits.unflatten(1, tuple(self.gaps.shape[1:])) * self.target_deviation + self.target_mean


def is_exact(settings: ProbeSettings, probe: nn.Module) -> bool:
    """Whether probes of this architecture are solved exactly.

    Raises:
        ValueError: `exact` was asked for and cannot be had.
    """
    linear = type(probe) is LinearProbe
    if settings.fit == "exact":
        if not linear:
            raise ValueError(
                f"Only LinearProbe can be solved exactly; the architecture is {type(probe).__name__}. "
                "Set `probe.fit` to minibatch or auto."
            )
        if 0 in settings.penalties:
            raise ValueError(
                "An exact fit expects penalties above 0; separable rows have no optimum at 0. Set `probe.penalties`."
            )
    return settings.fit != "minibatch" and linear and 0 not in settings.penalties


def train_bank(train: Rows, validation: Rows | None, spec: BankSpec) -> TrainedBank:
    """Train probes of all layers, penalties and controls on some rows.

    Args:
        train: Training rows, which also give the statistics that standardise activations and regression targets.
        validation: Rows that stop minibatch training; the exact solver needs none.
        spec: Everything else.

    Raises:
        ValueError: The fit asked for does not suit the architecture, or there is nothing to stop minibatches by.
    """
    mean, deviation = _target_scale(spec.kind, train.targets[0])
    train, validation = _scaled(train, mean, deviation), validation and _scaled(validation, mean, deviation)
    parts = []
    for layers in _turns(train, spec):
        own = None if validation is None else validation.of_layers(layers)
        parts.append(_fit(train.of_layers(layers), own, replace(spec, layers=spec.layers[layers])))
    banks, standardisers, gaps = zip(*parts, strict=True)
    shape = (len(spec.layers), len(spec.settings.penalties), len(train.targets))
    return TrainedBank(
        ProbeBank.concatenate(banks),
        Standardiser(torch.cat([s.mean for s in standardisers]), torch.cat([s.deviation for s in standardisers])),
        mean,
        deviation,
        torch.cat(gaps).view(shape),
    )


def _fit(train: Rows, validation: Rows | None, spec: BankSpec) -> tuple[ProbeBank, Standardiser, Tensor]:
    settings, seed = spec.settings, spec.seed
    bank = _bank(train, spec)
    standardiser, _ = Standardiser.of(train.values)
    if spec.exact:
        module = ExactProbeModule(bank, standardiser, kind=spec.kind, settings=settings)
        data = ActivationDataModule(train, layers_per_batch=_layers_per_solve(train, spec), task_data=spec.task_data)
        overrides = {"max_epochs": 1, "limit_val_batches": 0}
    else:
        if validation is None or len(validation) == 0:
            raise ValueError("Minibatch training expects validation rows to stop by; got none.")
        module = MinibatchProbeModule(bank, standardiser, kind=spec.kind, settings=settings)
        data = ActivationDataModule(
            train,
            validation,
            batch_size=settings.batch_size,
            seed=derive_seed(seed, "order"),
            task_data=spec.task_data,
        )
        overrides = {"max_epochs": settings.max_epochs}
    with quiet_lightning():
        trainer = spec.trainer_factory(num_sanity_val_steps=0, use_distributed_sampler=False, **overrides)
        trainer.fit(module, datamodule=data)
    return module.bank.cpu(), module.standardiser.cpu(), _gaps(module)


def _bank(train: Rows, spec: BankSpec) -> ProbeBank:
    replicas = [control for _ in spec.settings.penalties for control in range(len(train.targets))]
    return ProbeBank(
        spec.settings.architecture,
        train.values.shape[-1],
        spec.num_classes,
        layers=spec.layers,
        replicas=replicas,
        seed=derive_seed(spec.seed, "bank"),
    )


def _gaps(module: ExactProbeModule | MinibatchProbeModule) -> Tensor:
    if isinstance(module, ExactProbeModule):
        return module.gaps.cpu()
    assert module.best is not None
    return torch.where(module.best.lowest.cpu().double().isfinite(), torch.nan, torch.inf)


def _turns(train: Rows, spec: BankSpec) -> list[slice]:
    """Part the layers by what fits in memory: parameters, gradients, Adam's two moments, the best."""
    count = len(spec.layers)
    if spec.exact:
        return [slice(0, count)]
    one = _bank(train.of_layers(slice(0, 1)), replace(spec, layers=spec.layers[:1]))
    size = sum(parameter.numel() for parameter in one.parameters()) * 4 * 5
    at_once = max(1, spec.settings.max_bank_bytes // size)
    return [slice(first, first + at_once) for first in range(0, count, at_once)]


def _layers_per_solve(train: Rows, spec: BankSpec) -> int:
    """Layers whose rows (standardised, one copy), second moments and curvature pairs fit in memory together."""
    _, rows, features = train.values.shape
    outputs = len(train.targets) * spec.num_classes
    outputs *= min(penalties_per_batch(outputs), len(spec.settings.penalties))
    size = 4 * (3 * rows * features + 3 * features**2 + outputs * (24 * features + 8 * rows))
    return max(1, spec.settings.max_bank_bytes // size)


def _target_scale(kind: TargetKind, targets: Tensor) -> tuple[float, float]:
    if kind != "regression":
        return 0.0, 1.0
    deviation = targets.double().std(correction=0).item()
    return targets.double().mean().item(), deviation if deviation > 0 else 1.0


def _scaled(rows: Rows, mean: float, deviation: float) -> Rows:
    if (mean, deviation) == (0.0, 1.0):
        return rows
    return replace(rows, targets=(rows.targets - mean) / deviation)
