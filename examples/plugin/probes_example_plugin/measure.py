"""A measure of activations that needs no probe."""

from __future__ import annotations

from dataclasses import dataclass

from probes.analysis import TaskRows
from probes.values import Estimates


@dataclass(frozen=True)
class MeanNorm:
    """The mean length of activations at every layer.

    Attributes:
        quantity: Its name in results, tables and figures.
        unit: Its unit.
        needs: `rows`, `labels` or `reference`: what it needs besides activations.
    """

    quantity: str = "mean_norm"
    unit: str = "activation"
    needs: str = "rows"

    def __call__(self, rows: TaskRows) -> Estimates:
        """Measure every layer, with the standard error of a mean."""
        norms = rows.values.double().norm(dim=2)  # (layers, rows)
        n = norms.shape[1]
        errors = (norms - norms.mean(1, keepdim=True)).T / n  # (rows, layers); their squares sum to the variance
        return Estimates(norms.mean(1).numpy(), n, errors.numpy())
