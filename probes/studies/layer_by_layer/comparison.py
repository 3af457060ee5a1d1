"""Control models compared with base and experimental model, layer by layer, and what repeated tuning would change."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from probes.analysis import control_cka, group_means, join_rows, rank_agreement, replicate_noise, tuning_gain
from probes.analysis.between_tasks.tuning_gain import paired_difference
from probes.tasks import Suite
from probes.values import ALL_TASKS, Activations, Estimates, Layer, LayerProfile, Reading

_log = logging.getLogger(__name__)
GAIN = "tuning_gain"
CONTROL_CKA = ("cka/control_vs_base", "cka/control_vs_experimental", "cka/control_vs_control")
SEEN, UNSEEN = "seen_tasks", "unseen_tasks"
SimilarityMeasure = Callable[[Tensor, Tensor], Tensor]
"""Matched layers of two models, `(layers, rows, features)` each, to `(layers,)`."""


@dataclass(frozen=True)
class TaskModels:
    """One task's test rows in all models of a study, joined by row id.

    Attributes:
        base: The model all others were tuned from.
        experimental: The multi-task models, one for each seed.
        controls: Models tuned on the task alone, one for each seed.
    """

    base: Activations
    experimental: tuple[Activations, ...]
    controls: tuple[Activations, ...]

    @classmethod
    def joined(
        cls, base: Activations, experimental: Sequence[Activations], controls: Sequence[Activations]
    ) -> TaskModels:
        """Keep the rows that all models have, in the order of the base."""
        for other in (*experimental, *controls):
            base = join_rows(base, other).x
        kept = (tuple(join_rows(base, model).y for model in models) for models in (experimental, controls))
        return cls(base, *kept)


@dataclass
class Comparison:
    """Collects the profiles of one reading, task by task.

    Attributes:
        suite: The tasks.
        reading: Stack, site and pooling.
        layers: Names of the layers.
        measures: Other measures of similarity, by name, that the tuning gain is also computed with.
        max_rows: Rows that these use at most, the first of the task.
        every: They are computed at every so many layers; a check of CKA needs no more.
    """

    suite: Suite
    reading: Reading
    layers: tuple[Layer, ...]
    measures: Mapping[str, SimilarityMeasure]
    max_rows: int
    every: int = 1
    _profiles: dict[str, list[LayerProfile]] = field(default_factory=dict)
    _replicates: dict[str, dict[str, list[np.ndarray]]] = field(default_factory=dict)

    def add(self, task: str, models: TaskModels) -> None:
        """Compare the models of one task."""
        base = models.base.values
        experimental, *other_experimental = [model.values for model in models.experimental]
        first, *others = [control.values for control in models.controls]
        gains = tuning_gain(first, experimental, base)
        for quantity, estimates in gains.items():
            self._keep(task, quantity, "CKA", estimates)
        for name, measure in self.measures.items():
            self._keep(task, f"{GAIN}_by/{name}", name, self._gain_by(measure, first, experimental, base))
        if others:
            repeated = [paired_difference(control_cka(c, experimental), control_cka(c, base)) for c in others]
            self._keep_replicates(task, "control", [gains[GAIN], *repeated])
            self._keep(task, "cka/control_vs_control", "CKA", control_cka(first, others[0]))
        if other_experimental:
            vs_base = gains[CONTROL_CKA[0]]
            repeated = [paired_difference(control_cka(first, e), vs_base) for e in other_experimental]
            for number, estimates in enumerate(repeated, start=1):
                self._keep(task, f"{GAIN}_replicate/{number}", "CKA", estimates)
            self._keep_replicates(task, "experimental", [gains[GAIN], *repeated])

    def profiles(self) -> list[LayerProfile]:
        """All profiles; means of CKA and gain over clusters and over seen and unseen tasks; noise; agreement.

        `seed_noise/tuning_gain` is the gain's standard deviation over seeds of the control, or of the experimental
        model, by role; `n` is its degrees of freedom.
        `agreement/…` is the rank correlation over cells of the gain by CKA and by each other measure.
        """
        profiles = [profile for quantity in self._profiles.values() for profile in quantity]
        replicates = [quantity for quantity in self._profiles if quantity.startswith(f"{GAIN}_replicate/")]
        for quantity in (*CONTROL_CKA[:2], GAIN, *replicates):
            profiles += self.group_means(quantity)
        for role in self._replicates:
            noise = Estimates(*self.noise(role))
            profiles.append(self._profile(ALL_TASKS, f"seed_noise/{GAIN}", "CKA", noise, role=role))
        return profiles + [self._agreement(name) for name in self.measures]

    def group_means(self, quantity: str) -> list[LayerProfile]:
        """Means of a quantity over seen and unseen tasks, and over clusters."""
        cluster = {task.name: task.cluster for task in self.suite.tasks if task.cluster}
        seen = {task.name: UNSEEN if task.unseen else SEEN for task in self.suite.tasks}
        profiles = self._profiles.get(quantity, [])
        return [*group_means(profiles, seen), *group_means(profiles, cluster)]

    def mean_over_tasks(self, quantity: str) -> LayerProfile | None:
        """Mean of a quantity over all tasks; `None` if it was not measured."""
        profiles = self._profiles.get(quantity, [])
        return group_means(profiles, {profile.task: ALL_TASKS for profile in profiles})[0] if profiles else None

    def noise(self, role: str) -> tuple[np.ndarray, int]:
        """Standard deviation of a task's tuning gain over seeds, and its degrees of freedom.

        Those of the experimental model are counted as if each task had its own, which is too many: one model's seed
        affects all tasks together.

        Args:
            role: Whose seeds, `control` or `experimental`.
        """
        if role not in self._replicates:
            return np.full(len(self.layers), np.nan), 0
        return replicate_noise(self._replicates[role])

    def _keep(self, task: str, quantity: str, unit: str, estimates: Estimates) -> None:
        self._profiles.setdefault(quantity, []).append(self._profile(task, quantity, unit, estimates))

    def _keep_replicates(self, task: str, role: str, gains: Sequence[Estimates]) -> None:
        self._replicates.setdefault(role, {})[task] = [estimates.values for estimates in gains]

    def _profile(self, task: str, quantity: str, unit: str, estimates: Estimates, *, role: str = "") -> LayerProfile:
        return LayerProfile(
            quantity=quantity,
            unit=unit,
            task=task,
            reading=self.reading,
            role=role,
            layers=self.layers,
            estimates=estimates,
        )

    def _gain_by(self, measure: SimilarityMeasure, control: Tensor, experimental: Tensor, base: Tensor) -> Estimates:
        chosen = slice((len(self.layers) - 1) % self.every, None, self.every)  # the last layer is among them
        x, y, z = (side[chosen, : self.max_rows] for side in (control, experimental, base))
        rows, values = x.shape[1], np.full(len(self.layers), np.nan)
        try:
            gain = measure(x, y) - measure(x, z)
        except ValueError as error:  # such as CCA on fewer rows than directions: the measure's message says so
            _log.warning("%s", error)
            return Estimates(values, rows, note=str(error))
        values[chosen] = gain.numpy(force=True)
        return Estimates(values, rows, note=f"constant layer, or not one of every {self.every} that are measured")

    def _matrix(self, quantity: str) -> np.ndarray:
        """A quantity of all tasks, shape `(layers, tasks)`."""
        return np.stack([profile.estimates.values for profile in self._profiles[quantity]], axis=1)

    def _agreement(self, name: str) -> LayerProfile:
        found = rank_agreement(self._matrix(GAIN), self._matrix(f"{GAIN}_by/{name}"))
        return LayerProfile(
            quantity=f"agreement/{GAIN}_by_cka_and_{name}",
            unit="rank correlation",
            reading=self.reading,
            layers=(None,),
            estimates=Estimates(
                np.array([found.value]),
                found.n,
                null=np.zeros((1, 1)),
                note="",
                interval=np.array([[found.ci_low], [found.ci_high]]),
                interval_over="tasks",
                remarks=("Spearman's correlation over cells",),
            ),
        )
