"""Any measure of rows, on a uniform sample of a stream of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from typing_extensions import override

from probes.analysis.streaming.row_sample import RowSample


class SampledMeasure(RowSample):
    """A measure that needs its rows side by side (neighbours, distances, ranks), of the rows of a `RowSample`.

    Report `num_rows_used` of `num_rows_seen` beside the value: measures of neighbours depend on the number of rows.

    Args:
        function: Takes the sampled streams in the order in which they came, such as `rbf_cka(x, y)` or
            `silhouette(x, groups)`; use `functools.partial` for its options.
        max_rows: Most rows to keep, at least 4.
        seed: Another seed, another sample.
        num_streams: How many tensors `function` takes.

    Raises:
        ValueError: As in `RowSample`.

    >>> import torch
    >>> mean = SampledMeasure(lambda x: x.mean(), max_rows=100, seed=0, num_streams=1)
    >>> mean.update(["a", "b", "c", "d"], torch.arange(8.0).view(1, 4, 2))
    >>> mean.compute(), mean.num_rows_used
    (tensor(3.5000), 4)
    """

    def __init__(self, function: Callable[..., Tensor], max_rows: int, seed: int, *, num_streams: int = 2) -> None:
        super().__init__(max_rows, seed, num_streams=num_streams)
        self.function = function

    @override
    def compute(self) -> Any:
        """The measure of the sample.

        Returns:
            What `function` gives.

        Raises:
            ValueError: Fewer than 4 rows came, or `function` refuses them.
        """
        return self.function(*self.sample())
