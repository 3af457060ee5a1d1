"""What probing one task gives back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from probes.metrics import MAIN_METRIC
from probes.values import Estimates, Layer, Result

from .layer_probes import LayerProbes


@dataclass(frozen=True)
class TaskProbes:
    """A task's probes at every layer and what they score.

    Attributes:
        probes: The chosen probe of each layer.
        results: Rows of `results.csv`, but for what the study fills in.
        estimates: `probe/<main metric>` and `probe/selectivity` on test at every layer, with the errors that layers
            share, for what is computed from several layers at once.
    """

    probes: LayerProbes
    results: list[Result]
    estimates: Mapping[str, Estimates]

    @property
    def objective_metric(self) -> str:
        """Metric that `objective` and the best layer go by: `macro_f1`, or `mse` for regression."""
        return "mse" if self.probes.kind == "regression" else MAIN_METRIC[self.probes.kind]

    @property
    def validation_best_layer(self) -> Layer | None:
        """Layer with the best validation score, the first of equals; `None` if every layer is constant."""
        scores = self._validation_scores()
        return max(scores, key=lambda layer: scores[layer], default=None)

    @property
    def objective(self) -> float:
        """Validation macro-F1, or negative mean squared error, at the validation-best layer; NaN if there is none."""
        return max(self._validation_scores().values(), default=float("nan"))

    def _validation_scores(self) -> dict[Layer, float]:
        sign = -1.0 if self.probes.kind == "regression" else 1.0
        return {
            result.layer: sign * result.value
            for result in self.results
            if (result.split, result.control, result.metric) == ("validation", "", self.objective_metric)
            and result.layer is not None
            and result.value == result.value
        }

    def save(self, path: str | Path, metadata: Mapping[str, Any] | None = None) -> Path:
        """Write the probes, see `LayerProbes.save`."""
        return self.probes.save(path, metadata)
