"""Linear probes, solved to their optimum inside Lightning's training loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from probes.metrics import TargetKind
from probes.training.bank.probe_bank import ProbeBank
from probes.training.bank.probe_module import ProbeModule, Standardiser
from probes.training.data_module import LayerBatch
from probes.training.linear_solver.solve import solve_linear
from probes.training.probe_settings import ProbeSettings


class ExactProbeModule(ProbeModule):
    """Solves the linear probes of a few layers in each training step, for all penalties and controls.

    Args:
        bank: `LinearProbe`s; replicas are ordered by penalty, then control.
        standardiser: Statistics of the training rows.
        kind: Kind of task.
        settings: Penalties, tolerance, iterations.

    Attributes:
        gaps: Certified bounds on the relative gap to the optimum, float64, infinite until solved; shape
            `(layers, replicas)`.
    """

    gaps: Tensor

    def __init__(
        self, bank: ProbeBank, standardiser: Standardiser, *, kind: TargetKind, settings: ProbeSettings
    ) -> None:
        super().__init__(bank, standardiser)
        self.automatic_optimization = False
        self.kind: TargetKind = kind
        self.settings = settings
        self.register_buffer("gaps", torch.full(bank.shape, torch.inf, dtype=torch.float64), persistent=False)

    def configure_optimizers(self) -> Optimizer:
        """Build the optimizer that calls the solver."""
        return SolveStep(self.bank.parameters())

    def training_step(self, batch: LayerBatch) -> None:
        """Solve the layers of this batch and write their probes into the bank."""
        optimizer = self.optimizers()
        optimizer.step(closure=lambda: self._solve(batch))  # pyright: ignore[reportAttributeAccessIssue]

    def validation_step(self, *args: object) -> None:
        """Do nothing: an optimum is certified, not stopped early."""

    @torch.no_grad()
    def _solve(self, batch: LayerBatch) -> None:
        layers = slice(batch.first_layer, batch.first_layer + len(batch.values))
        weight, bias = self.bank.get_parameter("linear/weight"), self.bank.get_parameter("linear/bias")
        with torch.autocast(self.device.type, enabled=False):
            solution = solve_linear(
                self.kind,
                self.standardiser[layers](batch.values),
                batch.targets,
                torch.tensor(self.settings.penalties, dtype=torch.float64),
                classes=weight.shape[1],
                row_weights=batch.weights,
                tolerance=self.settings.tolerance,
                max_iterations=self.settings.max_iterations,
            )
        # The bank's first axis is layers × replicas; the solution's (layers, penalties, controls) → (layers, replicas).
        weight.unflatten(0, self.bank.shape)[layers] = solution.weights.flatten(1, 2)
        bias.unflatten(0, self.bank.shape)[layers] = solution.biases.flatten(1, 2)
        self.gaps[layers] = solution.gaps.flatten(1, 2)


class SolveStep(Optimizer):
    """An optimizer whose step only calls its closure, which solves; without one, Lightning would count no steps."""

    def __init__(self, params: Any) -> None:
        super().__init__(params, {})

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Call the closure."""
        return None if closure is None else closure()
