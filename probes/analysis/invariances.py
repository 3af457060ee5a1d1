"""The contract of a measure: which inputs it accepts, where it is NaN, and which changes of its input it ignores."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, ParamSpec, Protocol, TypeVar, cast, get_args

import torch
from torch import Tensor

from probes.analysis.similarity.hsic import MIN_ROWS, is_constant

Invariance = Literal["rotation", "scale", "shift", "invertible"]
"""`rotation`: an orthogonal map of the features, reflections included. `scale`: one positive factor. `shift`: one
vector added to every row. `invertible`: any invertible linear map of the features. Each change is made to one input
alone, and the invariance holds at the measure's default options."""

P = ParamSpec("P")
R_co = TypeVar("R_co", covariant=True)


class Measure(Protocol[P, R_co]):
    """A function that declares which changes leave its value unchanged."""

    __name__: str
    invariances: frozenset[Invariance]

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co:
        """What the function does."""
        ...


def invariant_to(*names: Invariance) -> Callable[[Callable[P, R_co]], Measure[P, R_co]]:
    """Declare which changes leave a measure's value unchanged; every change not named must be known to alter it.

    `invertible` implies `rotation` and `scale`.

    Raises:
        ValueError: A name is not an `Invariance`.

    >>> @invariant_to("rotation", "shift")
    ... def spread(x: Tensor) -> Tensor:
    ...     return x.var(dim=0).sum()
    >>> sorted(spread.invariances)
    ['rotation', 'shift']
    """
    unknown = sorted(set(names) - set(get_args(Invariance)))
    if unknown:
        raise ValueError(f"No invariance is called {', '.join(map(repr, unknown))}. There are {get_args(Invariance)}.")
    implied: tuple[Invariance, ...] = ("rotation", "scale") if "invertible" in names else ()

    def declare(function: Callable[P, R_co]) -> Measure[P, R_co]:
        measure = cast("Measure[P, R_co]", function)
        measure.invariances = frozenset(names + implied)
        return measure

    return declare


def invariances(function: Callable[..., object]) -> frozenset[Invariance]:
    """What a measure declares with `invariant_to`.

    Raises:
        ValueError: It declares nothing, which is not the same as being invariant to nothing.
    """
    declared = getattr(function, "invariances", None)
    if declared is None:
        name = getattr(function, "__name__", repr(function))
        raise ValueError(f"'{name}' declares no invariances. Decorate it with `@invariant_to(...)`.")
    return declared


def require_rows(x: Tensor, *, name: str = "x") -> None:
    """Check activations that a measure of one stack of layers is to use.

    Args:
        x: Activations.
        name: Name of the argument, for the message.

    Raises:
        ValueError: The shape is not `(layers, rows, features)`, there are fewer than 4 rows, or a number is not finite.
    """
    if x.ndim != 3:
        raise ValueError(f"`{name}` expects the shape (layers, rows, features); got {tuple(x.shape)}.")
    if x.shape[1] < MIN_ROWS:
        raise ValueError(f"`{name}` expects at least {MIN_ROWS} rows; got {x.shape[1]}.")
    require_finite_rows(x.movedim(1, 0), name=f"`{name}`")


def require_finite_rows(rows: Tensor, *, name: str) -> None:
    """Check that no row holds NaN or infinity.

    Args:
        rows: Any shape with rows on the first axis.
        name: What the rows belong to, for the message.

    Raises:
        ValueError: A number is NaN or infinite.
    """
    finite = rows.isfinite()
    if not finite.all():
        broken = int((~finite).reshape(len(rows), -1).any(dim=1).sum())
        raise ValueError(
            f"{broken} of the {len(rows)} rows of {name} hold NaN or infinity. Drop them by row id, in every input."
        )


def require_matched_rows(x: Tensor, y: Tensor) -> None:
    """Check two stacks of layers of which layer and row `i` of one belong to layer and row `i` of the other.

    Raises:
        ValueError: As in `require_rows`, or the numbers of layers or rows differ.
    """
    if x.ndim == y.ndim == 3 and x.shape[:2] != y.shape[:2]:
        raise ValueError(
            "Matched layers expect two inputs (layers, rows, features) with the same layers and rows; "
            f"got {tuple(x.shape)} and {tuple(y.shape)}. Join both on their row ids first."
        )
    require_rows(x, name="x")
    require_rows(y, name="y")


def by_layer(measure: Callable[..., Tensor], *sides: Tensor) -> Tensor:
    """Apply a measure to one layer after another, so that memory holds the kernels of one layer only.

    Args:
        measure: Maps one layer of each side, float64 of shape `(rows, features)`, to a scalar.
        *sides: Shape `(layers, rows, features)` each.

    Returns:
        float64, shape `(layers,)`; NaN where a side is the same in all rows.
    """
    values = torch.full((len(sides[0]),), torch.nan, dtype=torch.float64, device=sides[0].device)
    constant = torch.stack([is_constant(side) for side in sides]).any(dim=0).tolist()
    for index, layers in enumerate(zip(*sides, strict=True)):
        if not constant[index]:
            values[index] = measure(*(layer.double() for layer in layers))
    return values
