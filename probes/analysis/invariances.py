"""The contract of a measure: what it takes, where it is NaN, and which changes of its input leave its value alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, ParamSpec, Protocol, TypeVar, cast, get_args

import torch
from torch import Tensor

from probes.analysis.similarity.hsic import MIN_ROWS, is_constant

Invariance = Literal["rotation", "scale", "shift", "invertible"]
"""`rotation`: an orthogonal map of the features, reflections included. `scale`: one positive factor. `shift`: one
vector added to every row. `invertible`: any invertible linear map of the features. Each is applied to one input alone,
and holds at the measure's default options."""

P = ParamSpec("P")
R_co = TypeVar("R_co", covariant=True)


class Measure(Protocol[P, R_co]):
    """A function that says what leaves its value unchanged."""

    __name__: str
    invariances: frozenset[Invariance]

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co:
        """What the function does."""
        ...


def invariant_to(*names: Invariance) -> Callable[[Callable[P, R_co]], Measure[P, R_co]]:
    """Declare what a measure's value does not depend on; what is not named is known to change it.

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
        raise ValueError(f"'{name}' does not say what leaves it unchanged. Decorate it with `@invariant_to(...)`.")
    return declared


def require_rows(x: Tensor, *, name: str = "x") -> None:
    """Refuse what no measure of one stack of layers can use.

    Args:
        x: Wanted: shape `(layers, rows, features)`, at least 4 rows, every number finite.
        name: What the message calls it.

    Raises:
        ValueError: It is not so.
    """
    if x.ndim != 3:
        raise ValueError(f"`{name}` expects the shape (layers, rows, features); got {tuple(x.shape)}.")
    if x.shape[1] < MIN_ROWS:
        raise ValueError(f"`{name}` expects at least {MIN_ROWS} rows; got {x.shape[1]}.")
    broken = int((~x.isfinite()).any(dim=2).any(dim=0).sum())
    if broken:
        raise ValueError(
            f"{broken} of the {x.shape[1]} rows of `{name}` hold NaN or infinity. Drop them by row id, "
            "in every input alike."
        )


def require_matched_rows(x: Tensor, y: Tensor) -> None:
    """Refuse two stacks of layers unless both are usable and layer and row `i` can be the same in both.

    Raises:
        ValueError: As in `require_rows`, or the numbers of layers or rows differ.
    """
    if x.ndim == y.ndim == 3 and x.shape[:2] != y.shape[:2]:
        raise ValueError(
            "Two inputs (layers, rows, features) are wanted with the same layers and rows; "
            f"got {tuple(x.shape)} and {tuple(y.shape)}. Join both on their row ids first."
        )
    require_rows(x, name="x")
    require_rows(y, name="y")


def by_layer(measure: Callable[..., Tensor], *sides: Tensor) -> Tensor:
    """Measure one layer after another, so that memory holds the kernels of one layer only.

    Args:
        measure: One layer of each side, float64 of shape `(rows, features)` → scalar.
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
