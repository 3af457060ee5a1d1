"""Frozen values that pass between packages: readings, activations, values over layers, and the tables made of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor  # only named: whoever draws a matrix need not load torch

Layer = int | str
"""0 is the input of the first block, k the output of block k, `"final"` what follows the final norm."""

SPLITS = ("train", "validation", "test")
STACKS = ("encoder", "decoder")
SITES = ("residual", "attention", "mlp")
POOLINGS = ("last", "first", "mean", "max")
SIGNIFICANCE_LEVEL = 0.05
"""A p-value below it is marked in figures and counted in tables."""
Alternative = Literal["greater", "less", "two-sided"]
"""Which deviations from a null count as evidence against it, as in `scipy.stats`."""
ALL_TASKS = "all_tasks"
"""Stands for the task of a quantity that is computed from several tasks together."""


@dataclass(frozen=True, order=True)
class Reading:
    """What is read from a backbone at every layer: which stack, which site of a block, how tokens become one vector."""

    stack: str
    site: str
    pooling: str

    def __str__(self) -> str:
        return f"{self.stack}.{self.site}.{self.pooling}"


NO_READING = Reading("", "", "")
"""The reading of a quantity that is not computed from activations, such as the loss of a model's answers."""


@dataclass(frozen=True)
class Activations:
    """Activations of some examples at some layers, under one reading.

    Attributes:
        values: float32, shape `(layers, examples, features)`.
        layers: Names of the first axis.
        row_ids: Names of the second axis; every join between two activations goes through them.
        reading: Stack, site and pooling.
        depth: Number of blocks of the stack, whether or not they are read; `None` where it is unknown.
    """

    values: Tensor
    layers: tuple[Layer, ...]
    row_ids: tuple[str, ...]
    reading: Reading
    depth: int | None = None

    def __post_init__(self) -> None:
        expected = (len(self.layers), len(self.row_ids))
        if self.values.ndim != 3 or tuple(self.values.shape[:2]) != expected:
            raise ValueError(
                f"Activations expect values of shape (layers, examples, features) = {(*expected, 'features')}; "
                f"got {tuple(self.values.shape)}."
            )


@dataclass(frozen=True)
class Estimates:
    """A number at every layer with its uncertainty; all arrays float64, NaN where unknown.

    Attributes:
        values: Shape `(layers,)`.
        n: Rows (examples) they rest on.
        errors: Shape `(errors, layers)`, scaled so that `errors.T @ errors` is the covariance of `values` between
            layers; differences of estimates on the same rows have the differences of their errors. `None` without.
        null: Values by chance, such as under permutations, shape `(draws, layers)`; one draw where only their mean is
            known; `None` where chance has no meaning.
        alternative: Which deviations from the null count.
        note: Why a layer has no value; it is reported for the layers where `values` is NaN.
        interval: Ends of 95 % intervals, shape `(2, layers)`; `None`: Student's t from `errors`, if there are any.
        interval_over: What would be drawn anew in each repetition that the intervals are about: `rows`,
            `sentences` or `groups` of them, `rows and training sets`, or `tasks`.
        p: p of each value under its null, corrected for looking at all cells of the quantity, shape `(layers,)`; `None`
            if not tested, or not yet.
        p_cell: p of each value by itself, shape `(layers,)`; `None` likewise.
        remarks: What else must be reported for each layer, one string a layer; `()` for nothing.
        freedom: For each source of errors, such as test rows and training sets, in the order of `errors`: how many of
            them it has, and their degrees of freedom; `()` for one source, with one less than its errors.
    """

    values: np.ndarray
    n: int
    errors: np.ndarray | None = None
    null: np.ndarray | None = None
    alternative: Alternative = "greater"
    note: str = "constant layer: all rows are equal"
    interval: np.ndarray | None = None
    interval_over: str = "rows"
    p: np.ndarray | None = None
    p_cell: np.ndarray | None = None
    remarks: tuple[str, ...] = ()
    freedom: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, kw_only=True)
class LayerProfile:
    """One quantity of one task (or between tasks) over layers: the one form a number has until it is written or drawn.

    Whatever computes a quantity makes profiles; `probes.analysis.result_rows` turns them into rows of `results.csv`,
    and `probes.analysis.layer_by_task` turns those of a quantity into a matrix.

    Attributes:
        quantity: Name of the quantity, such as `label_cka` or `probe/macro_f1`.
        unit: Its unit.
        estimates: The numbers.
        layers: Names of the layers; `(None,)` for a single number that belongs to no layer.
        task: Name of the task, or of a group of tasks, or `ALL_TASKS`.
        reading: Stack, site and pooling.
        role: Which model it is measured on, where a study compares several, such as `base`.
        split: The rows it is measured on.
        control: `""` for the thing itself; `shuffled_labels` or `majority` for a probe's baselines.
        probe: Name of the probe, for scores of probes.
        penalties: The probe's λ at each layer, `None` where there is no probe; `()` without.
        seed: The seed that decided it, where one did.
    """

    quantity: str
    unit: str
    estimates: Estimates
    layers: tuple[Layer | None, ...]
    task: str = ""
    reading: Reading = NO_READING
    role: str = ""
    split: str = "test"
    control: str = ""
    probe: str = ""
    penalties: tuple[float | None, ...] = ()
    seed: int | None = None

    def __post_init__(self) -> None:
        if self.estimates.values.shape != (len(self.layers),):
            raise ValueError(
                f"A profile of '{self.quantity}' expects values of shape (layers,) = ({len(self.layers)},); got "
                f"{self.estimates.values.shape}."
            )

    @property
    def metric(self) -> str:
        """The quantity as `results.csv` calls it: a probe's score without `probe/`."""
        return self.quantity.removeprefix("probe/")

    @property
    def name(self) -> str:
        """The quantity as matrices and figures call it: with its role, if it has one."""
        return f"{self.role}/{self.metric}" if self.role else self.quantity

    def by_layer(self) -> Iterator[tuple[Layer, float]]:
        """Each layer with its value."""
        for layer, value in zip(self.layers, self.estimates.values.tolist(), strict=True):
            if layer is not None:
                yield layer, value


@dataclass(frozen=True, kw_only=True)
class RunNames:
    """What all rows of a run's results share.

    Attributes:
        study: Kind of study.
        backbone: Name of the backbone.
        reference: Name of the reference backbone; `""` without.
        suite: Name of the suite.
        clusters: Task → cluster.
    """

    study: str = ""
    backbone: str = ""
    reference: str = ""
    suite: str = ""
    clusters: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True, kw_only=True)
class Result:
    """One row of `results.csv`: one number, where it was measured, and its uncertainty.

    Empty strings and `None` mean "does not apply". `control` is `""` for a trained probe, `"shuffled_labels"` for the
    same bank on permuted labels (`"word_types"`: a random label for each word), `"majority"` for the constant
    prediction of the most frequent training label or of the training mean (`"majority_per_word"`: of each word's).
    `interval_over` says what the interval is about (see `Estimates`). `null_mean` is what the value would be by chance,
    and 95 % of values by chance lie between `null_low` and `null_high`. `p` is corrected for looking at all layers and
    tasks of the quantity, `p_cell` is not.
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
    unit: str = ""
    value: float = float("nan")
    ci_low: float | None = None
    ci_high: float | None = None
    interval_over: str = ""
    null_mean: float | None = None
    null_low: float | None = None
    null_high: float | None = None
    p: float | None = None
    p_cell: float | None = None
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
        null_low: Lower ends of the ranges that hold 95 % of the values by chance; default unknown.
        null_high: Upper ends of these ranges.
        p: Each value's p under its null, corrected for looking at all cells; default unknown.
        p_cell: Each value's p by itself; default unknown.
        interval_over: What the intervals are about, as in `Estimates`; empty without intervals.
        n: Rows (examples) behind each value; default unknown.
        clusters: Cluster of each task, `""` for none; `()` where none has one.
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
    null_low: np.ndarray = field(default_factory=lambda: np.empty(0))
    null_high: np.ndarray = field(default_factory=lambda: np.empty(0))
    p: np.ndarray = field(default_factory=lambda: np.empty(0))
    p_cell: np.ndarray = field(default_factory=lambda: np.empty(0))
    interval_over: str = ""
    n: np.ndarray = field(default_factory=lambda: np.empty(0))
    clusters: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        optional = ("null_low", "null_high", "p", "p_cell", "n")
        for name in optional:
            if getattr(self, name).size == 0:
                object.__setattr__(self, name, np.full(self.values.shape, np.nan))
        for name in ("values", "ci_low", "ci_high", "null_mean", *optional):
            shape = getattr(self, name).shape
            if shape != (len(self.layers), len(self.tasks)):
                raise ValueError(
                    f"LayerByTask '{self.quantity}' expects `{name}` of shape (layers, tasks) = "
                    f"{(len(self.layers), len(self.tasks))}; got {shape}."
                )

    def of_tasks(self, tasks: Sequence[str]) -> LayerByTask:
        """The columns of some tasks, in the given order.

        Raises:
            KeyError: A task is not among those of the matrix.
        """
        missing = [task for task in tasks if task not in self.tasks]
        if missing:
            raise KeyError(f"'{self.quantity}' has no task {', '.join(missing)}. It has {', '.join(self.tasks)}.")
        columns = [self.tasks.index(task) for task in tasks]
        arrays = {f.name: getattr(self, f.name)[:, columns] for f in fields(self) if f.type == "np.ndarray"}
        clusters = tuple(self.clusters[column] for column in columns) if self.clusters else ()
        return replace(self, tasks=tuple(tasks), clusters=clusters, **arrays)

    @property
    def significant(self) -> np.ndarray:
        """Whether p < `SIGNIFICANCE_LEVEL`, corrected for all cells; bool `(layers, tasks)`, false without p.

        If nothing differs from its null, 5 % of matrices have any such cell.
        """
        return self.p < SIGNIFICANCE_LEVEL

    @property
    def significant_alone(self) -> np.ndarray:
        """Whether `p_cell` < `SIGNIFICANCE_LEVEL`; where nothing differs from its null, 5 % of cells have it."""
        return self.p_cell < SIGNIFICANCE_LEVEL


@dataclass(frozen=True)
class LayerByLayer:
    """How similar every layer of one model is to every layer of another, on the rows of one task.

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


@dataclass(frozen=True)
class BestLayers:
    """The layer of a task that scores best on validation rows, and the layers that these rows cannot tell from it.

    Attributes:
        task: Name of the task.
        layer: The best layer, the first of equals.
        layers: All layers that may be the truly best one, the best layer among them, in their order; `None` if unknown
            because no rows were resampled.
        metric: Name of the metric by which the layer was chosen.
        score: Its value at the best layer.
        n: Number of rows.
        level: Probability with which a layer that is truly best is among `layers`.
    """

    task: str
    layer: Layer
    layers: tuple[Layer, ...] | None
    metric: str
    score: float
    n: int
    level: float = 0.95

    @property
    def text(self) -> str:
        """The layers as ranges of consecutive numbers, such as `12–17, 19`; empty if they are unknown.

        Example:
            >>> BestLayers("tense", 3, (3, 4, 5, 9, "final"), "macro_f1", 0.8, n=400).text
            '3–5, 9, final'
        """
        ranges: list[list[Layer]] = []
        for layer in self.layers or ():
            last = ranges[-1][-1] if ranges else None
            if isinstance(layer, int) and isinstance(last, int) and layer == last + 1:
                ranges[-1].append(layer)
            else:
                ranges.append([layer])
        return ", ".join(f"{own[0]}–{own[-1]}" if len(own) > 1 else str(own[0]) for own in ranges)


def layer_depth(layer: Layer) -> float:
    """A number that sorts layers by depth, `"final"` last."""
    return np.inf if layer == "final" else float(layer)
