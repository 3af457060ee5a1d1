"""Results of each class, and which classes are taken for which: what an average over 150 classes hides."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import binomtest

from probes.metrics import Predictions
from probes.probe_measures.protocol import ProbedTask, TaskTable


@dataclass(frozen=True, kw_only=True)
class PerClass:
    """Precision, recall and F1 of each class at the best layer, the most frequent confusions, and recall by layer.

    The tables are `per_class`, whose recall has Wilson's interval; `recall_by_layer`, with a row for each class and a
    column for each layer; `confusions`, the pairs of classes that are confused most often; and `confusion_matrix`, all
    of them, rows being true classes. Of a multi-label task there are the first two. They need no further training.

    Attributes:
        confusions: Pairs in the table of confusions.
    """

    confusions: int = 20

    def __call__(self, probed: ProbedTask) -> Iterator[TaskTable]:
        """The tables."""
        predictions, best = probed.fit.predictions, probed.fit.best_layers
        if predictions is None or best is None or predictions.kind == "regression":
            return
        layer = predictions.layers.index(best.layer)
        yield _table("per_class", probed, class_results(predictions, layer))
        by_layer: dict[str, list[Any]] = {
            f"layer {name}": recalls(predictions, i) for i, name in enumerate(predictions.layers)
        }
        yield _table("recall_by_layer", probed, {"class": list(predictions.labels), **by_layer})
        if predictions.kind == "classification":
            matrix = confusion_matrix(predictions, layer)
            yield _table("confusions", probed, most_confused(matrix, predictions.labels, self.confusions))
            columns = {label: matrix[:, k].tolist() for k, label in enumerate(predictions.labels)}
            yield _table("confusion_matrix", probed, {"true class": list(predictions.labels), **columns})


def class_results(predictions: Predictions, layer: int) -> dict[str, list[Any]]:
    """Columns of the results of each class at a layer, by its index; NaN for a class neither true nor predicted."""
    true, predicted = _members(predictions, layer)
    hits, rows, taken = (true & predicted).sum(0), true.sum(0), predicted.sum(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        precision, recall, f1 = hits / taken, hits / rows, 2 * hits / (rows + taken)
    ends = [_wilson(int(hit), int(count)) for hit, count in zip(hits, rows, strict=True)]
    return {
        "class": list(predictions.labels),
        "rows": rows.tolist(),
        "precision": precision.tolist(),
        "recall": recall.tolist(),
        "lower end": [low for low, _ in ends],
        "upper end": [high for _, high in ends],
        "f1": f1.tolist(),
    }


def recalls(predictions: Predictions, layer: int) -> list[float]:
    """Share of the rows of each class that a layer's probe finds; NaN for a class without rows."""
    true, predicted = _members(predictions, layer)
    with np.errstate(invalid="ignore", divide="ignore"):
        return ((true & predicted).sum(0) / true.sum(0)).tolist()


def confusion_matrix(predictions: Predictions, layer: int) -> np.ndarray:
    """How many rows of each true class (axis 0) are predicted as each class (axis 1)."""
    classes = len(predictions.labels)
    pairs = predictions.targets.astype(np.int64) * classes + predictions.predicted[layer]
    return np.bincount(pairs, minlength=classes**2).reshape(classes, classes)


def most_confused(matrix: np.ndarray, labels: tuple[str, ...], count: int) -> dict[str, list[str | int | float]]:
    """Columns of the off-diagonal entries with the most rows, at least one.

    >>> most_confused(np.array([[5, 2], [0, 3]]), ("a", "b"), 5)["predicted as"]
    ['b']
    """
    wrong = matrix - np.diag(np.diag(matrix))
    order = np.argsort(-wrong, axis=None, kind="stable")[:count]
    cells = [divmod(int(cell), len(matrix)) for cell in order if wrong.flat[cell] > 0]
    return {
        "true class": [labels[true] for true, _ in cells],
        "predicted as": [labels[predicted] for _, predicted in cells],
        "rows": [int(matrix[cell]) for cell in cells],
        "share of the class": [float(matrix[cell] / matrix[cell[0]].sum()) for cell in cells],
    }


def _members(predictions: Predictions, layer: int) -> tuple[np.ndarray, np.ndarray]:
    """Which rows truly belong to each class, and which are predicted to; bool `(rows, classes)` each."""
    if predictions.kind == "multilabel":
        return predictions.targets > 0, predictions.predicted[layer] > 0
    classes = np.arange(len(predictions.labels))
    return predictions.targets[:, None] == classes, predictions.predicted[layer][:, None] == classes


def _wilson(hits: int, rows: int) -> tuple[float, float]:
    if rows == 0:
        return float("nan"), float("nan")
    interval = binomtest(hits, rows).proportion_ci(method="wilson")
    return float(interval.low), float(interval.high)


def _table(name: str, probed: ProbedTask, columns: dict[str, list[str | int | float]]) -> TaskTable:
    return TaskTable(name=name, task=probed.data.task, reading=probed.data.reading, columns=columns)
