"""What lies between tasks at every layer: measures of all tasks' rows together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from probes.analysis.intervals import errors_of_halves, halves_of
from probes.values import Estimates


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
            raise ValueError(f"'{self.quantity}' lies between tasks and wants at least 2; got {len(rows_by_task)}.")
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
