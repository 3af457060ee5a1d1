"""Any measure of rows, computed on a uniform sample of a stream of rows."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat
from typing_extensions import override

from probes.analysis.invariances import require_finite_rows
from probes.analysis.similarity.hsic import MIN_ROWS
from probes.analysis.streaming.running_sums import require_enough_rows


class RowSample(Metric):
    """At most `max_rows` rows of several streams, the same rows of each, drawn uniformly without replacement.

    Every row gets a priority, a hash of the seed and its row id, and the rows of smallest priority are kept. The sample
    therefore depends on neither order nor batches nor ranks, and a row that comes twice, as `DistributedSampler`
    repeats some, is kept once.

    In a distributed run every rank must have seen a row before `compute`. `num_rows_used` and `num_rows_seen` count
    this rank's rows; within `with metric.sync_context():` they count those of all ranks.

    Args:
        max_rows: Most rows to keep, at least 4.
        seed: Seed of the sample.
        num_streams: How many tensors go with every batch of row ids.

    Raises:
        ValueError: `max_rows` is below 4 or `num_streams` below 1.

    >>> sample = RowSample(max_rows=4, seed=0, num_streams=1)
    >>> for start in (0, 5):
    ...     sample.update(range(start, start + 5), torch.arange(start, start + 5))
    >>> [rows.sort().values.tolist() for rows in sample.compute()], sample.num_rows_seen
    ([[3, 7, 8, 9]], 10)
    """

    full_state_update = False
    is_differentiable = False
    priorities: list[Tensor] | Tensor
    rows_seen: Tensor

    def __init__(self, max_rows: int, seed: int, *, num_streams: int = 2) -> None:
        if max_rows < MIN_ROWS or num_streams < 1:
            raise ValueError(
                f"A row sample expects `max_rows` of at least {MIN_ROWS} and `num_streams` of at least 1; "
                f"got {max_rows} and {num_streams}."
            )
        super().__init__()
        self.max_rows, self.seed, self.num_streams = max_rows, seed, num_streams
        self.add_state("priorities", [], dist_reduce_fx="cat")
        for index in range(num_streams):
            self.add_state(f"stream_{index}", [], dist_reduce_fx="cat")
        self.add_state("rows_seen", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, row_ids: Sequence[str] | Sequence[int] | Tensor, *streams: Tensor) -> None:
        """Add a batch.

        Args:
            row_ids: One for each row, strings or integers (or a tensor of them), unique to the row over all batches.
            *streams: Activations `(layers, rows, features)` or labels `(rows,)`, each with the same rows.

        Raises:
            ValueError: There are more or fewer streams than `num_streams`, or their rows are not as many as the row
                ids, not finite, or of another shape than before.
        """
        ids = row_ids.tolist() if isinstance(row_ids, Tensor) else list(row_ids)
        self._require_streams(len(ids), streams)
        if not ids:
            return
        priorities = torch.tensor([_priority(self.seed, row_id) for row_id in ids], device=streams[0].device)
        self._parts("priorities").append(priorities)
        for index, stream in enumerate(streams):
            self._parts(f"stream_{index}").append(_rows_first(stream).detach())
        self.rows_seen = self.rows_seen + len(ids)
        self._keep_smallest()

    @override
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Add a batch and give the value for that batch alone."""
        value = super().forward(*args, **kwargs)
        self._keep_smallest()
        return value

    def compute(self) -> Any:
        """The sample.

        Returns:
            A tuple with each stream's rows, `(layers, rows, features)` or `(rows,)`, by ascending priority.

        Raises:
            ValueError: Fewer than 4 rows came.
        """
        return self.sample()

    def sample(self) -> tuple[Tensor, ...]:
        """The rows kept so far on this rank; see `compute`."""
        require_enough_rows(self.num_rows_used, metric=type(self).__name__)
        self._keep_smallest()
        kept = (dim_zero_cat(self._parts(f"stream_{index}")) for index in range(self.num_streams))
        return tuple(rows.movedim(0, 1) if rows.ndim == 3 else rows for rows in kept)

    @property
    def num_rows_used(self) -> int:
        """Rows in the sample so far, on this rank."""
        priorities = self._parts("priorities")
        return min(self.max_rows, len(dim_zero_cat(priorities).unique())) if len(priorities) else 0

    @property
    def num_rows_seen(self) -> int:
        """Rows that came so far on this rank, repeats included."""
        return int(self.rows_seen)

    def _parts(self, name: str) -> list[Tensor]:
        """A list state, which is a single tensor after ranks were gathered."""
        state = getattr(self, name)
        return [state] if isinstance(state, Tensor) else state

    def _keep_smallest(self) -> None:
        """Cut every list state to the distinct rows of smallest priority, in ascending order."""
        if not self._parts("priorities"):
            return
        order = _first_of_each(dim_zero_cat(self._parts("priorities")))[: self.max_rows]
        for name in ("priorities", *(f"stream_{index}" for index in range(self.num_streams))):
            setattr(self, name, [dim_zero_cat(self._parts(name))[order]])

    def _require_streams(self, rows: int, streams: tuple[Tensor, ...]) -> None:
        if len(streams) != self.num_streams:
            raise ValueError(f"A batch expects {self.num_streams} streams after the row ids; got {len(streams)}.")
        for index, stream in enumerate(streams):
            name = f"stream {index}"
            if stream.ndim not in {1, 3}:
                raise ValueError(f"`{name}` expects (layers, rows, features) or (rows,); got {tuple(stream.shape)}.")
            by_row = _rows_first(stream)
            if len(by_row) != rows:
                raise ValueError(
                    f"A batch expects one id for each row; got {rows} row ids and {len(by_row)} rows of {name}."
                )
            require_finite_rows(by_row, name=f"a batch of `{name}`")
            self._require_same_shape(index, by_row)

    def _require_same_shape(self, index: int, by_row: Tensor) -> None:
        before = self._parts(f"stream_{index}")
        if before and before[0].shape[1:] != by_row.shape[1:]:
            raise ValueError(
                f"`stream {index}` came with (layers, features) = {tuple(before[0].shape[1:])} before; now with "
                f"{tuple(by_row.shape[1:])}."
            )


def _rows_first(stream: Tensor) -> Tensor:
    return stream.movedim(1, 0) if stream.ndim == 3 else stream


def _priority(seed: int, row_id: str | int) -> int:
    """63 uniform bits, which fit int64."""
    digest = hashlib.blake2b(f"{seed}:{row_id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def _first_of_each(priorities: Tensor) -> Tensor:
    """Indices that sort the distinct priorities in ascending order."""
    ordered, order = priorities.sort(stable=True)
    first = torch.ones_like(ordered, dtype=torch.bool)
    first[1:] = ordered[1:] != ordered[:-1]
    return order[first]


class SampledMeasure(RowSample):
    """A measure that needs all its rows at once (neighbours, distances, ranks), computed on a `RowSample`.

    Report `num_rows_used` and `num_rows_seen` beside the value: measures of neighbours depend on the number of rows.

    Args:
        function: Takes the sampled streams in the order in which they came, such as `rbf_cka(x, y)` or
            `silhouette(x, groups)`; use `functools.partial` for its options.
        max_rows: Most rows to keep, at least 4.
        seed: Seed of the sample.
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
            The result of `function`.

        Raises:
            ValueError: Fewer than 4 rows came, or `function` refuses them.
        """
        return self.function(*self.sample())
