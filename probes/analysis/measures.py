"""What lies between tasks at every layer: measures of all tasks' rows together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from probes.analysis.geometry.spectra import effective_rank_of_shares, spectral_jackknife
from probes.analysis.intervals import errors_of_halves, half_sample_errors, halves_of, jackknife_errors
from probes.analysis.similarity.cka import biased_cka_floor, label_features
from probes.analysis.similarity.leave_one_out import cka_leave_one_out, deviating_rows
from probes.analysis.similarity.permutation_null import cka_null
from probes.values import Estimates

_NO_CKA = "constant layer: all rows, or all but one, are equal"

Needs = Literal["rows", "labels", "reference"]


@dataclass(frozen=True)
class TaskRows:
    """What measures see of one task.

    Attributes:
        values: Activations, float32, shape `(layers, rows, features)`.
        labels: int64 `(rows,)` for classes, float `(rows,)` for numbers, float `(rows, labels)` for 0/1 entries; `None`
            where the task has no labels.
        reference: Activations of the same rows in another model, `(layers, rows, reference_features)`; `None` where
            there is no other model.
    """

    values: Tensor
    labels: Tensor | None = None
    reference: Tensor | None = None


class TaskMeasure(Protocol):
    """A quantity of one task at every layer. Any object with these four can stand in `conf/analysis`."""

    @property
    def quantity(self) -> str:
        """Its name, such as `label_cka`."""
        ...

    @property
    def unit(self) -> str:
        """Its unit."""
        ...

    @property
    def needs(self) -> Needs:
        """`rows` alone, or also `labels` or a `reference`; without them it is not asked."""
        ...

    def __call__(self, rows: TaskRows) -> Estimates:
        """Measure every layer."""
        ...


@dataclass(frozen=True, kw_only=True)
class LabelCKA:
    """Debiased CKA between activations and labels: does the geometry of the layer follow the task's labels?

    Args:
        permutations: Shuffles of the labels behind null and p; 0 for none.
        seed: Decides them.
    """

    permutations: int = 200
    seed: int = 0
    quantity: ClassVar = "label_cka"
    unit: ClassVar = "CKA"
    needs: ClassVar[Needs] = "labels"

    def __call__(self, rows: TaskRows) -> Estimates:
        """Measure every layer; NaN where the layer is constant, or all rows, or all but one, have one label."""
        assert rows.labels is not None
        labels = label_features(rows.labels)[None].to(rows.values.dtype)
        estimates = _cka(rows.values, labels, permutations=self.permutations, seed=self.seed)
        odd = int(deviating_rows(labels).sum())
        if odd > 1:
            return estimates
        return replace(estimates, note="all rows but one have one label" if odd else "all rows have one label")


@dataclass(frozen=True, kw_only=True)
class ReferenceCKA:
    """Linear CKA between every layer and the same layer of the reference backbone.

    Args:
        debiased: Else the biased estimate, whose chance level is its floor at this number of rows and these spectra.
        permutations: Shuffles of the rows of one side behind null and p of the debiased estimate; 0 for none.
        seed: Decides them.
    """

    debiased: bool = True
    permutations: int = 200
    seed: int = 0
    unit: ClassVar = "CKA"
    needs: ClassVar[Needs] = "reference"

    @property
    def quantity(self) -> str:
        """`reference_cka`, or `reference_cka_biased`."""
        return "reference_cka" if self.debiased else "reference_cka_biased"

    def __call__(self, rows: TaskRows) -> Estimates:
        """Measure every layer; NaN where the layer is constant in either model."""
        assert rows.reference is not None
        if self.debiased:
            return _cka(rows.values, rows.reference, permutations=self.permutations, seed=self.seed)
        statistic = cka_leave_one_out(rows.values, rows.reference, debiased=False)
        floor = biased_cka_floor(rows.values, rows.reference)[None].numpy(force=True)
        return Estimates(_array(statistic.values), rows.values.shape[1], jackknife_errors(statistic), floor)


@dataclass(frozen=True, kw_only=True)
class SpectralMeasure:
    """A function of the eigenvalue shares of each layer's covariance, such as its effective rank.

    Args:
        quantity: Its name.
        unit: Its unit.
        of_shares: Shares `(directions,)` to a number, differentiable.
    """

    quantity: str = "effective_rank"
    unit: str = "directions"
    of_shares: Callable[[Tensor], Tensor] = effective_rank_of_shares
    needs: ClassVar[Needs] = "rows"

    def __call__(self, rows: TaskRows) -> Estimates:
        """Measure every layer; NaN where it is constant."""
        values, errors = spectral_jackknife(rows.values, self.of_shares)
        return Estimates(_array(values), rows.values.shape[1], _array(errors))


@dataclass(frozen=True, kw_only=True)
class RowMeasure:
    """Any function of activations, or of activations and the reference's, on a seeded sample of the rows.

    Args:
        quantity: Its name.
        unit: Its unit.
        function: `(layers, rows, features)`, for `needs="reference"` twice, to `(layers,)`.
        needs: What it is called with besides the activations.
        max_rows: Rows it is computed on at most; the number used is reported as `n`.
        half_samples: Halves of these rows behind the intervals; 0 for none.
        seed: Decides sample and halves.
    """

    quantity: str
    unit: str
    function: Callable[..., Tensor]
    needs: Needs = "rows"
    max_rows: int = 1000
    half_samples: int = 20
    seed: int = 0

    def __call__(self, rows: TaskRows) -> Estimates:
        """Measure every layer."""
        total = rows.values.shape[1]
        generator = torch.Generator().manual_seed(self.seed)
        chosen = torch.randperm(total, generator=generator)[: self.max_rows].sort().values
        inputs = [rows.values[:, chosen], *([rows.reference[:, chosen]] if rows.reference is not None else [])]
        inputs = inputs if self.needs == "reference" else inputs[:1]
        errors = None
        if self.half_samples > 0:
            errors = half_sample_errors(
                lambda half: self.function(*(part[:, half] for part in inputs)),
                len(chosen),
                half_samples=self.half_samples,
                seed=self.seed,
            )
        return Estimates(_array(self.function(*inputs).double()), len(chosen), errors)


def _cka(x: Tensor, y: Tensor, *, permutations: int, seed: int) -> Estimates:
    statistic = cka_leave_one_out(x, y)
    null = None
    if permutations > 0:
        null = _array(cka_null(x, y, norm=statistic.norm, permutations=permutations, seed=seed))
    return Estimates(_array(statistic.values), x.shape[1], jackknife_errors(statistic), null, _NO_CKA)


def _array(values: Tensor) -> np.ndarray:
    return values.numpy(force=True)


@dataclass(frozen=True, kw_only=True)
class BetweenTasks:
    """Any function of rows and the task each comes from, such as their silhouette.

    Prompts name their task, so tasks of instructions part easily, most by the wording; of raw texts they part by what
    the texts are about.

    Args:
        quantity: Its name.
        unit: Its unit.
        function: `(layers, rows, features)` and int64 `(rows,)` to `(layers,)`.
        of_draws: The same for several draws of rows at once, where that is quicker than one after the other: takes
            their row positions, a list of int64 tensors, as a third argument and returns `(draws, layers)`.
        chance: Its value where tasks do not differ; `None` is one over the number of tasks.
        half_samples: Halves behind the intervals, of half the rows of each task; 0 for none.
        seed: Decides the halves.
    """

    quantity: str
    unit: str
    function: Callable[[Tensor, Tensor], Tensor]
    of_draws: Callable[[Tensor, Tensor, list[Tensor]], Tensor] | None = None
    chance: float | None = 0.0
    half_samples: int = 20
    seed: int = 0

    def __call__(self, rows_by_task: Sequence[Tensor]) -> Estimates:
        """Measure every layer.

        Args:
            rows_by_task: Some rows of each task, `(layers, rows, features)`.

        Raises:
            ValueError: Fewer than two tasks.
        """
        if len(rows_by_task) < 2:
            raise ValueError(f"'{self.quantity}' lies between tasks and expects at least 2; got {len(rows_by_task)}.")
        x = torch.cat(list(rows_by_task), dim=1)
        tasks = torch.arange(len(rows_by_task)).repeat_interleave(torch.tensor([r.shape[1] for r in rows_by_task]))
        halves = []
        if self.half_samples > 0:
            halves = halves_of(x.shape[1], groups=tasks, half_samples=self.half_samples, seed=self.seed)
        values = self._of_draws(x, tasks, [torch.arange(x.shape[1]), *halves]).double()
        errors = errors_of_halves(values[1:], len(halves[0]), x.shape[1]) if halves else None
        chance = 1 / len(rows_by_task) if self.chance is None else self.chance
        null = torch.full((1, len(x)), chance, dtype=torch.float64)
        return Estimates(values[0].numpy(force=True), x.shape[1], errors, null.numpy())

    def _of_draws(self, x: Tensor, tasks: Tensor, draws: list[Tensor]) -> Tensor:
        if self.of_draws is not None:
            return self.of_draws(x, tasks, draws)
        return torch.stack([self.function(x[:, draw], tasks[draw]) for draw in draws])
