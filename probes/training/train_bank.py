"""Training the bank of one task, exactly or by minibatches, in as many chunks of layers as memory requires."""

from __future__ import annotations

from collections.abc import Callable
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
from probes.training.closed_form import CLOSED_FORMS, solve_closed_form
from probes.training.data_module import ActivationDataModule, Rows
from probes.training.linear_solver.solve import penalties_per_batch
from probes.training.linear_solver.solver_module import ExactProbeModule
from probes.training.probe_settings import ProbeSettings
from probes.training.ragged import RaggedRows, RowValues, vectors_of
from probes.training.streamed_rows import StreamedRows
from probes.training.task_data import TaskData
from probes.values import Layer

_FLOAT_BYTES = 4
_BANK_COPIES = 5
"""Tensors of a bank's size in minibatch training: parameters, gradients, Adam's two moments, the best state."""


@dataclass(frozen=True)
class BankSpec:
    """Everything that decides a trained bank except its rows.

    Attributes:
        task_data: The task that the rows come from; `None` for probes that bring their own targets and loss.
        layers: Names of the layers; fewer than the task has where some are constant or belong to another chunk.
        num_classes: Width of the logits.
        exact: Whether the optimum is solved for, instead of trained towards by minibatches.
        settings: How the probes are trained.
        trainer_factory: Makes a Lightning trainer for each fit.
        seed: Decides initialisation, dropout and the order of the rows.
        prepare: Called with the untrained bank of each chunk of layers, to change where its probes start.
    """

    task_data: TaskData | None
    layers: tuple[Layer, ...]
    num_classes: int
    exact: bool
    settings: ProbeSettings
    trainer_factory: TrainerFactory
    seed: int
    prepare: Callable[[ProbeBank], None] | None = None

    @property
    def kind(self) -> TargetKind:
        """Kind of task; probes that bring their own loss predict numbers."""
        return "regression" if self.task_data is None else self.task_data.kind

    def of_layers(self, layers: slice) -> BankSpec:
        """Return the specification of the bank of some of the layers."""
        return replace(self, layers=self.layers[layers])


@dataclass(frozen=True)
class TrainedBank:
    """Trained probes of every layer, penalty and control.

    Attributes:
        bank: Probes of the layers; the replicas are ordered by penalty, then control.
        standardiser: Statistics of the training rows.
        target_mean: Mean of the training targets of a regression task; otherwise 0.
        target_deviation: Standard deviation of the training targets of a regression task; otherwise 1.
        gaps: float64, shape `(layers, penalties, 1 + controls)`: the exact solver's bound on (objective − optimum) /
            objective; NaN for minibatches; infinite for a probe whose loss was never finite.
    """

    bank: ProbeBank
    standardiser: Standardiser
    target_mean: float
    target_deviation: float
    gaps: Tensor

    def logits(self, values: RowValues) -> Tensor:
        """Compute logits, or predicted numbers in the unit of a regression task's targets.

        Args:
            values: Raw activations, shape `(layers, rows, features)`, or of the tokens of each row.

        Returns:
            Shape `(layers, penalties, 1 + controls, rows, classes)`.
        """
        logits = row_batched_logits(self.bank, self.standardiser, values)
        return logits.unflatten(1, tuple(self.gaps.shape[1:])) * self.target_deviation + self.target_mean


def is_exact(settings: ProbeSettings, probe: nn.Module) -> bool:
    """Tell whether probes of this architecture are solved exactly.

    Raises:
        ValueError: The settings require an exact fit of an architecture, or at a penalty, that has none.
    """
    linear = type(probe) is LinearProbe  # a subclass may compute something else
    if settings.fit in CLOSED_FORMS:
        if not linear or 0 in settings.penalties:
            raise ValueError(
                f"`probe.fit={settings.fit}` gives linear probes at penalties above 0; the architecture is "
                f"{type(probe).__name__}, the penalties are {list(settings.penalties)}. Set `probe.architecture` and "
                "`probe.penalties`, or `probe.fit=auto`."
            )
        return False  # it has no certificate, and needs none
    if settings.fit == "exact":
        if not linear:
            raise ValueError(
                f"Only LinearProbe can be solved exactly; the architecture is {type(probe).__name__}. "
                "Set `probe.fit` to minibatch or auto."
            )
        if 0 in settings.penalties:
            raise ValueError(
                "An exact fit requires penalties above 0, as separable rows have no optimum at 0; got "
                f"{list(settings.penalties)}. Set `probe.penalties`."
            )
    return settings.fit != "minibatch" and linear and 0 not in settings.penalties


def train_bank(train: Rows, validation: Rows | None, spec: BankSpec) -> TrainedBank:
    """Train probes of all layers, penalties and controls.

    Args:
        train: Training rows, which also give the statistics that standardise activations and regression targets.
        validation: Rows that decide when minibatch training stops; the exact solver needs none.
        spec: Everything else.

    Raises:
        ValueError: Minibatch training has no validation rows; or the probe's loss does not suit the settings.
    """
    mean, deviation = (0.0, 1.0) if spec.task_data is None else _target_scale(spec.kind, train.targets[0])
    train = _with_standardised_targets(train, mean, deviation)
    if validation is not None:
        validation = _with_standardised_targets(validation, mean, deviation)
    chunks = []
    for layers in _layer_chunks(train, spec):
        chunk_validation = None if validation is None else validation.of_layers(layers)
        chunks.append(_train_chunk(train.of_layers(layers), chunk_validation, spec.of_layers(layers)))
    banks, standardisers, gaps = zip(*chunks, strict=True)
    return TrainedBank(
        bank=ProbeBank.concatenate(banks),
        standardiser=Standardiser(
            torch.cat([standardiser.mean for standardiser in standardisers]),
            torch.cat([standardiser.deviation for standardiser in standardisers]),
            None if standardisers[0].largest is None else torch.cat([each.largest for each in standardisers]),
        ),
        target_mean=mean,
        target_deviation=deviation,
        # (layers, replicas) → (layers, penalties, 1 + controls)
        gaps=torch.cat(gaps).view(len(spec.layers), len(spec.settings.penalties), len(train.targets)),
    )


def _train_chunk(train: Rows, validation: Rows | None, spec: BankSpec) -> tuple[ProbeBank, Standardiser, Tensor]:
    """Train the probes of some layers together; returns their bank, statistics and gaps `(layers, replicas)`."""
    settings = spec.settings
    bank = _new_bank(train, spec)
    if settings.fit in CLOSED_FORMS:
        return _solved_in_closed_form(bank, train, spec)
    if spec.prepare is not None:
        spec.prepare(bank)
    if isinstance(train.values, StreamedRows):
        standardiser, _ = Standardiser.of(train.values)
    else:
        largest = settings.largest_token if isinstance(train.values, RaggedRows) else None
        standardiser, _ = Standardiser.of(vectors_of(train.values), largest=largest)
    if spec.exact:
        module = ExactProbeModule(bank, standardiser, kind=spec.kind, settings=settings)
        data = ActivationDataModule(train, layers_per_batch=_layers_per_solve(train, spec), task_data=spec.task_data)
        overrides = {"max_epochs": 1, "limit_val_batches": 0}
    else:
        if validation is None or len(validation) == 0:
            raise ValueError("Minibatch training requires validation rows to decide when to stop; got none.")
        module = MinibatchProbeModule(bank, standardiser, kind=spec.kind, settings=settings)
        data = ActivationDataModule(
            train,
            validation,
            batch_size=settings.batch_size,
            seed=derive_seed(spec.seed, "order"),
            task_data=spec.task_data,
        )
        overrides = {"max_epochs": settings.max_epochs}
    with quiet_lightning():
        trainer = spec.trainer_factory(num_sanity_val_steps=0, use_distributed_sampler=False, **overrides)
        trainer.fit(module, datamodule=data)
    return module.bank.cpu(), module.standardiser.cpu(), _gaps(module)


def _new_bank(train: Rows, spec: BankSpec) -> ProbeBank:
    """Build the untrained bank; a control starts from the same weights at every penalty, for a fair comparison."""
    return ProbeBank(
        spec.settings.architecture,
        train.values.shape[-1],
        spec.num_classes,
        layers=spec.layers,
        replicas=[control for _ in spec.settings.penalties for control in range(len(train.targets))],
        seed=derive_seed(spec.seed, "bank"),
    )


def _gaps(module: ExactProbeModule | MinibatchProbeModule) -> Tensor:
    """Certificates as `TrainedBank.gaps` has them, shape `(layers, replicas)`."""
    if isinstance(module, ExactProbeModule):
        return module.gaps.cpu()
    assert module.early_stopping is not None
    return torch.where(module.early_stopping.lowest.cpu().double().isfinite(), torch.nan, torch.inf)


@torch.no_grad()
def _solved_in_closed_form(bank: ProbeBank, train: Rows, spec: BankSpec) -> tuple[ProbeBank, Standardiser, Tensor]:
    """A bank with probes that are solved from second moments; gaps are 0, as nothing is left to improve."""
    settings = spec.settings
    weights, biases, standardiser = solve_closed_form(
        settings.fit, spec.kind, train, settings.penalties, classes=spec.num_classes
    )
    bank.get_parameter("linear/weight").copy_(weights.flatten(0, 2))  # (layers × penalties × labellings, …)
    bank.get_parameter("linear/bias").copy_(biases.flatten(0, 2))
    return bank, standardiser, torch.zeros(len(weights), weights[0, :, :, 0, 0].numel(), dtype=torch.float64)


def _layer_chunks(train: Rows, spec: BankSpec) -> list[slice]:
    """Split the layers into chunks whose banks fit in memory; the exact solver batches layers itself."""
    count = len(spec.layers)
    if spec.exact:
        return [slice(0, count)]
    first_layer = slice(0, 1)
    bank = _new_bank(train.of_layers(first_layer), spec.of_layers(first_layer))
    layer_bytes = sum(parameter.numel() for parameter in bank.parameters()) * _FLOAT_BYTES * _BANK_COPIES
    if isinstance(train.values, RaggedRows):
        # a padded batch as given and standardised
        rows, longest = min(spec.settings.batch_size, len(train)), train.values.longest
        layer_bytes += 2 * rows * longest * train.values.shape[-1] * _FLOAT_BYTES
    if spec.settings.fit in CLOSED_FORMS:
        layer_bytes += 3 * _FLOAT_BYTES * train.values.shape[-1] ** 2  # second moments in float64, and what is added
    layers_per_chunk = max(1, spec.settings.max_bank_bytes // layer_bytes)
    return [slice(first, first + layers_per_chunk) for first in range(0, count, layers_per_chunk)]


def _layers_per_solve(train: Rows, spec: BankSpec) -> int:
    """Number of layers that the exact solver can hold in memory together.

    A layer takes three tensors of its rows (as given, standardised, one copy), three of its second moments and their
    axes, and for each output, that is one class of one control at one penalty, about 24 vectors of features (10 pairs
    of L-BFGS and the present iterate) and 8 of rows (logits, means and their changes).
    """
    _, rows, features = train.values.shape
    outputs = len(train.targets) * spec.num_classes
    outputs *= min(penalties_per_batch(outputs), len(spec.settings.penalties))
    numbers = 3 * rows * features + 3 * features**2 + outputs * (24 * features + 8 * rows)
    return max(1, spec.settings.max_bank_bytes // (_FLOAT_BYTES * numbers))


def _target_scale(kind: TargetKind, targets: Tensor) -> tuple[float, float]:
    """Mean and standard deviation of a regression target; (0, 1) for other kinds, and a deviation of 1 instead of 0."""
    if kind != "regression":
        return 0.0, 1.0
    deviation = targets.double().std(correction=0).item()
    return targets.double().mean().item(), deviation if deviation > 0 else 1.0


def _with_standardised_targets(rows: Rows, mean: float, deviation: float) -> Rows:
    if (mean, deviation) == (0.0, 1.0):
        return rows  # class indices must stay integers
    return replace(rows, targets=(rows.targets - mean) / deviation)
