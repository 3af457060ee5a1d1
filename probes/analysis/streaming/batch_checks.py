"""What a streaming measure takes as a batch, and when it has seen enough rows."""

from __future__ import annotations

from torch import Tensor

from probes.analysis.similarity.hsic import MIN_ROWS


def require_batch(batch: Tensor, *, layers: int, features: int, name: str = "x") -> None:
    """Refuse a batch of activations of another shape than the metric was made for, or with broken rows.

    Raises:
        ValueError: It is not `(layers, rows, features)`, or a number is NaN or infinite.
    """
    if batch.ndim != 3 or batch.shape[0] != layers or batch.shape[2] != features:
        raise ValueError(
            f"`{name}` expects batches of shape (layers, rows, features) = ({layers}, rows, {features}), as the metric "
            f"was made for; got {tuple(batch.shape)}."
        )
    require_finite(batch.movedim(1, 0), name=name)


def require_finite(rows: Tensor, *, name: str) -> None:
    """Refuse NaN and infinity; rows are the first axis.

    Raises:
        ValueError: A number is NaN or infinite.
    """
    if not rows.isfinite().all():
        broken = int((~rows.isfinite()).flatten(1).any(dim=1).sum())
        raise ValueError(
            f"{broken} of the {len(rows)} rows of a batch of `{name}` hold NaN or infinity. Drop them by row id, in "
            "every input alike."
        )


def require_same_rows(x_rows: int, y_rows: int, *, y_name: str = "y") -> None:
    """Refuse a batch whose sides are not the same samples.

    Raises:
        ValueError: The numbers of rows differ.
    """
    if x_rows != y_rows:
        raise ValueError(
            f"A batch expects the same rows on both sides; got {x_rows} of `x` and {y_rows} of `{y_name}`. Join both "
            "on their row ids first."
        )


def require_enough_rows(rows: int, *, metric: str) -> None:
    """Refuse to compute from too few rows.

    Raises:
        ValueError: There are fewer than 4.
    """
    if rows < MIN_ROWS:
        raise ValueError(f"{metric} expects at least {MIN_ROWS} rows; {rows} came. `update` it with more batches.")
