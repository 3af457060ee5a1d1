"""Frozen values that pass between rooms: readings, activations with their rows, estimates, results, matrices."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor  # to be named, not used: who draws a matrix need not load torch

Layer = int | str
"""0 is the input of the first block, k the output of block k, `"final"` what follows the final norm."""

SPLITS = ("train", "validation", "test")
STACKS = ("encoder", "decoder")
SITES = ("residual", "attention", "mlp")
POOLINGS = ("last", "first", "mean", "max")


@dataclass(frozen=True, order=True)
class Reading:
    """What is read off a backbone at every layer: which stack, which site of a block, how tokens become one vector."""

    stack: str
    site: str
    pooling: str

    def __str__(self) -> str:
        return f"{self.stack}.{self.site}.{self.pooling}"


@dataclass(frozen=True)
class Activations:
    """One reading of some examples at some layers.

    Attributes:
        values: float32, shape `(layers, examples, features)`.
        layers: Names of the first axis.
        row_ids: Names of the second axis; every join between two activations goes through them.
        reading: Stack, site and pooling.
    """

    values: Tensor
    layers: tuple[Layer, ...]
    row_ids: tuple[str, ...]
    reading: Reading

    def __post_init__(self) -> None:
        expected = (len(self.layers), len(self.row_ids))
        if self.values.ndim != 3 or tuple(self.values.shape[:2]) != expected:
            raise ValueError(
                f"Activations expect values of shape (layers, examples, features) = {(*expected, 'features')}; "
                f"got {tuple(self.values.shape)}."
            )


@dataclass(frozen=True)
class Estimates:
    """One quantity at every layer of one task, with its doubt; float64, NaN where unknown.

    Attributes:
        values: Shape `(layers,)`.
        n: Rows they rest on.
        errors: Shape `(errors, layers)`, scaled so that `errors.T @ errors` is the covariance of `values`; `None` where
            there is no interval.
        null: Values by chance, such as under permutations, shape `(draws, layers)`; one draw where only their mean is
            known; `None` where chance has no meaning.
        note: What is to be said of the layers that have no value.
    """

    values: np.ndarray
    n: int
    errors: np.ndarray | None = None
    null: np.ndarray | None = None
    note: str = "constant layer: all rows are equal"


@dataclass(frozen=True, kw_only=True)
class Result:
    """One row of `results.csv`: one number, where it was measured, and how sure it is.

    Empty strings and `None` mean "does not apply". `control` is `""` for a trained probe, `"shuffled_labels"` for the
    same bank on permuted labels, `"majority"` for the constant prediction of the most frequent training label (of the
    training mean for regression). `null_mean` is what the value would be by chance: for a probe, the score of its
    shuffled-label control.
    """

    study: str = ""
    role: str = ""
    backbone: str = ""
    reference: str = ""
    suite: str = ""
    task: str = ""
    cluster: str = ""
    stack: str = ""
    layer: Layer | None = None
    site: str = ""
    pooling: str = ""
    probe: str = ""
    penalty: float | None = None
    control: str = ""
    seed: int | None = None
    split: str = ""
    metric: str = ""
    value: float = float("nan")
    ci_low: float | None = None
    ci_high: float | None = None
    null_mean: float | None = None
    p: float | None = None
    n: int | None = None
    note: str = ""


RESULT_COLUMNS = tuple(f.name for f in fields(Result))


@dataclass(frozen=True)
class LayerByTask:
    """A quantity at every layer for every task; all arrays are float64 of shape `(layers, tasks)`, NaN where unknown.

    Attributes:
        quantity: Its name, such as `probe/accuracy`.
        unit: Its unit, such as `share of rows`, `bits`.
        layers: Names of the rows.
        tasks: Names of the columns.
        values: The estimates.
        ci_low: Lower ends of 95 % intervals.
        ci_high: Upper ends of 95 % intervals.
        null_mean: What each value would be by chance.
        reading: Stack, site and pooling.
        notes: Why a cell is NaN or marked, by `(layer, task)`.
        p: Each value's p under its null, corrected for looking at several cells; default unknown.
    """

    quantity: str
    unit: str
    layers: tuple[Layer, ...]
    tasks: tuple[str, ...]
    values: np.ndarray
    ci_low: np.ndarray
    ci_high: np.ndarray
    null_mean: np.ndarray
    reading: Reading
    notes: Mapping[tuple[Layer, str], str] = field(default_factory=lambda: MappingProxyType({}))
    p: np.ndarray = field(default_factory=lambda: np.empty(0))

    def __post_init__(self) -> None:
        if self.p.size == 0:
            object.__setattr__(self, "p", np.full(self.values.shape, np.nan))
        for name in ("values", "ci_low", "ci_high", "null_mean", "p"):
            shape = getattr(self, name).shape
            if shape != (len(self.layers), len(self.tasks)):
                raise ValueError(
                    f"LayerByTask '{self.quantity}' expects `{name}` of shape (layers, tasks) = "
                    f"{(len(self.layers), len(self.tasks))}; got {shape}."
                )

    @classmethod
    def pivot(cls, quantity: str, unit: str, results: Iterable[Result], reading: Reading) -> LayerByTask:
        """Arrange results as a matrix; layers ascend, `"final"` last, tasks keep the order of their first appearance.

        Args:
            quantity: Name of the matrix.
            unit: Unit of its values.
            results: One result a cell; those without a layer are left out.
            reading: Stack, site and pooling all of them share.

        Raises:
            ValueError: Two results claim one cell.
        """
        cells: dict[tuple[Layer, str], Result] = {}
        for result in results:
            if result.layer is None:
                continue
            cell = (result.layer, result.task)
            if cell in cells:
                raise ValueError(f"Two results of '{quantity}' claim layer {cell[0]} of task '{cell[1]}'.")
            cells[cell] = result
        layers = tuple(sorted({layer for layer, _ in cells}, key=_depth))
        tasks = tuple(dict.fromkeys(task for _, task in cells))

        def matrix(name: str) -> np.ndarray:
            values = np.full((len(layers), len(tasks)), np.nan)
            for (layer, task), result in cells.items():
                value = getattr(result, name)
                if value is not None:
                    values[layers.index(layer), tasks.index(task)] = value
            return values

        return cls(
            quantity=quantity,
            unit=unit,
            layers=layers,
            tasks=tasks,
            values=matrix("value"),
            ci_low=matrix("ci_low"),
            ci_high=matrix("ci_high"),
            null_mean=matrix("null_mean"),
            p=matrix("p"),
            reading=reading,
            notes=MappingProxyType({cell: result.note for cell, result in cells.items() if result.note}),
        )


@dataclass(frozen=True)
class LayerByLayer:
    """How alike every layer of one model is to every layer of another, on the rows of one task.

    Attributes:
        quantity: Its name, such as `cka`.
        unit: Its unit.
        task: Whose rows.
        x_name: The backbone whose layers are the rows.
        y_name: The one whose layers are the columns.
        x_layers: Names of the rows.
        y_layers: Names of the columns.
        values: float64, shape `(x_layers, y_layers)`; NaN where unknown.
        reading: Stack, site and pooling.
        n: Examples compared.
    """

    quantity: str
    unit: str
    task: str
    x_name: str
    y_name: str
    x_layers: tuple[Layer, ...]
    y_layers: tuple[Layer, ...]
    values: np.ndarray
    reading: Reading
    n: int

    def __post_init__(self) -> None:
        if self.values.shape != (len(self.x_layers), len(self.y_layers)):
            raise ValueError(
                f"LayerByLayer '{self.quantity}' expects values of shape (x_layers, y_layers) = "
                f"{(len(self.x_layers), len(self.y_layers))}; got {self.values.shape}."
            )


def _depth(layer: Layer) -> float:
    return np.inf if layer == "final" else float(layer)
