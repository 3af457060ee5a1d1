"""Linear CKA of all pairs of layers from minibatches, with memory for one batch."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric

from probes.analysis.minibatch_cka import HsicSums, cka_of_sums, hsic_sums
from probes.analysis.streaming.batches import require_same_rows


class MinibatchCKA(Metric):
    """`minibatch_cka`: between every layer of x and every layer of y, from summed HSICs of minibatches.

    States are `x_layers` × `y_layers` numbers, whatever the features. Batches over ranks count as batches.

    Args:
        x_layers: Layers of x.
        y_layers: Layers of y.
    """

    full_state_update = False
    is_differentiable = False
    between: Tensor
    within_x: Tensor
    within_y: Tensor
    num_batches: Tensor

    def __init__(self, x_layers: int, y_layers: int) -> None:
        super().__init__()
        self.x_layers, self.y_layers = x_layers, y_layers
        for name, shape in (("between", (x_layers, y_layers)), ("within_x", (x_layers,)), ("within_y", (y_layers,))):
            self.add_state(name, torch.zeros(shape, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("num_batches", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, x: Tensor, y: Tensor) -> None:
        """Add a minibatch.

        Args:
            x: Shape `(x_layers, rows, x_features)`, at least 4 rows.
            y: Shape `(y_layers, rows, y_features)`, rows as in `x`.

        Raises:
            ValueError: The layers are not those the metric was made for, rows are fewer than 4, differ or are not
                finite.
        """
        if x.ndim != 3 or y.ndim != 3 or (len(x), len(y)) != (self.x_layers, self.y_layers):
            raise ValueError(
                f"MinibatchCKA wants batches (layers, rows, features) of {self.x_layers} layers of `x` and "
                f"{self.y_layers} of `y`, as it was made for; got {tuple(x.shape)} and {tuple(y.shape)}."
            )
        require_same_rows(x.shape[1], y.shape[1])
        sums = hsic_sums(x, y)
        self.between = self.between + sums.between
        self.within_x = self.within_x + sums.within_x
        self.within_y = self.within_y + sums.within_y
        self.num_batches = self.num_batches + 1

    def compute(self) -> Tensor:
        """CKA of all pairs of layers.

        Returns:
            float64, shape `(x_layers, y_layers)`; NaN where a layer is constant within every batch.

        Raises:
            ValueError: No batch came.
        """
        if self.num_batches == 0:
            raise ValueError("MinibatchCKA wants at least one batch of at least 4 rows; none came.")
        return cka_of_sums(HsicSums(self.between, self.within_x, self.within_y))
