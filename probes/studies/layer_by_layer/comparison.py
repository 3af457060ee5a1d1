"""Columns of a layer-by-layer study: control models against base and experimental model, and what repeats would do."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from probes.analysis import (
    ALL_TASKS,
    Column,
    control_cka,
    group_means,
    join_rows,
    rank_agreement,
    replicate_noise,
    tuning_gain,
)
from probes.analysis.between_tasks.tuning_gain import difference
from probes.tasks import Suite
from probes.values import Activations, Estimates, Layer, Reading, Result

_log = logging.getLogger(__name__)
GAIN = "tuning_gain"
SEEN, UNSEEN = "seen_tasks", "unseen_tasks"
SimilarityMeasure = Callable[[Tensor, Tensor], Tensor]
"""Matched layers of two models, `(layers, rows, features)` each, to `(layers,)`."""


@dataclass(frozen=True)
class TaskModels:
    """One task's test rows as the models of a study see them, rows joined.

    Attributes:
        base: The model all others were tuned from.
        experimental: The multi-task model.
        controls: Models tuned on the task alone, by one seed each.
    """

    base: Activations
    experimental: Activations
    controls: tuple[Activations, ...]

    @classmethod
    def joined(cls, base: Activations, experimental: Activations, controls: Sequence[Activations]) -> TaskModels:
        """Keep the rows that all models have, in the order of the base."""
        for other in (experimental, *controls):
            base = join_rows(base, other).x
        return cls(base, join_rows(base, experimental).y, tuple(join_rows(base, control).y for control in controls))


@dataclass
class Comparison:
    """Collects the columns of one reading, task by task.

    Attributes:
        suite: The tasks.
        reading: What was read.
        layers: Names of the layers.
        measures: Other measures of similarity, by name.
        max_rows: Rows that these see at most, the first of the task.
        every: They are computed at every so many layers; a check of CKA needs no more.
    """

    suite: Suite
    reading: Reading
    layers: tuple[Layer, ...]
    measures: Mapping[str, SimilarityMeasure]
    max_rows: int
    every: int = 1
    columns: dict[str, list[Column]] = field(default_factory=dict)
    replicates: dict[str, list[np.ndarray]] = field(default_factory=dict)

    def add(self, task: str, models: TaskModels) -> None:
        """Compare the models of one task."""
        base, experimental = models.base.values, models.experimental.values
        first, *others = [control.values for control in models.controls]
        gains = tuning_gain(first, experimental, base)
        for quantity, estimates in gains.items():
            self._keep(task, quantity, "CKA", estimates)
        for name, measure in self.measures.items():
            self._keep(task, f"{GAIN}_by/{name}", name, self._gain_by(measure, first, experimental, base))
        if others:
            again = [difference(control_cka(c, experimental), control_cka(c, base)) for c in others]
            self.replicates[task] = [own.values for own in (gains[GAIN], *again)]
            self._keep(task, "cka/control_vs_control", "CKA", control_cka(first, others[0]))

    def with_groups(self) -> list[Column]:
        """All columns, the means of each quantity of CKA over clusters and over seen and unseen tasks, and the noise.

        `seed_noise/tuning_gain` is the gain's standard deviation over seeds of its control, `n` the degrees of freedom.
        """
        cluster = {task.name: task.cluster for task in self.suite.tasks if task.cluster}
        seen = {task.name: UNSEEN if task.unseen else SEEN for task in self.suite.tasks}
        every = [column for own in self.columns.values() for column in own]
        for quantity in ("cka/control_vs_base", "cka/control_vs_experimental", GAIN):
            own = self.columns.get(quantity, [])
            every += [*group_means(own, seen), *group_means(own, cluster)]
        deviation, freedom = self.noise()
        if freedom:
            own = Estimates(deviation, freedom)
            every.append(Column(f"seed_noise/{GAIN}", "CKA", ALL_TASKS, self.reading, self.layers, own))
        return every

    def noise(self) -> tuple[np.ndarray, int]:
        """Standard deviation over seeds of a control's tuning gain, and its degrees of freedom."""
        if not self.replicates:
            return np.full(len(self.layers), np.nan), 0
        return replicate_noise(self.replicates)

    def agreement(self) -> list[Result]:
        """Rank correlation over cells of the tuning gain by CKA and by each other measure."""
        gain = self._matrix(GAIN)
        return [self._agreement(name, gain, self._matrix(f"{GAIN}_by/{name}")) for name in self.measures]

    def _keep(self, task: str, quantity: str, unit: str, estimates: Estimates) -> None:
        column = Column(quantity, unit, task, self.reading, self.layers, estimates)
        self.columns.setdefault(quantity, []).append(column)

    def _gain_by(self, measure: SimilarityMeasure, control: Tensor, experimental: Tensor, base: Tensor) -> Estimates:
        chosen = slice((len(self.layers) - 1) % self.every, None, self.every)  # the last layer is among them
        parts = [side[chosen, : self.max_rows] for side in (control, experimental, base)]
        rows, values = parts[0].shape[1], np.full(len(self.layers), np.nan)
        try:
            gain = measure(parts[0], parts[1]) - measure(parts[0], parts[2])
        except ValueError as error:  # such as CCA on fewer rows than directions: the measure says so itself
            _log.warning("%s", error)
            return Estimates(values, rows, note=str(error))
        values[chosen] = gain.numpy(force=True)
        return Estimates(values, rows, note=f"constant layer, or not one of every {self.every} that are measured")

    def _matrix(self, quantity: str) -> np.ndarray:
        return np.stack([column.estimates.values for column in self.columns[quantity]], axis=1)

    def _agreement(self, name: str, gain: np.ndarray, other: np.ndarray) -> Result:
        found = rank_agreement(gain, other)
        return Result(
            stack=self.reading.stack,
            site=self.reading.site,
            pooling=self.reading.pooling,
            split="test",
            metric=f"agreement/{GAIN}_by_cka_and_{name}",
            value=found.value,
            ci_low=None if np.isnan(found.ci_low) else found.ci_low,
            ci_high=None if np.isnan(found.ci_high) else found.ci_high,
            null_mean=0.0,
            n=found.n,
            note="Spearman's correlation over cells, interval over resampled tasks",
        )
