"""What the page of a run shows, as plain data that becomes JSON: quantities, best layers, pairs of layers, facts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from probes.metrics import MAIN_METRIC
from probes.report.figures.axes import is_signed
from probes.report.saved_run import SavedRun
from probes.report.tables import control_of
from probes.values import ALL_TASKS, SIGNIFICANCE_LEVEL, LayerByLayer, LayerByTask, Reading, Result

_DIGITS = 5
"""Significant digits of numbers on the page; `results.csv` has all of them."""
_MOST_COLUMNS, _MOST_ROWS = 8, 160
"""Size of the largest tables of single tasks that the page shows, such as those of 150 classes."""
_LONG = 40
"""With more rows, a table of layers is shown at the best layer only."""
_MATRICES = {"value": "values", "low": "ci_low", "high": "ci_high", "null": "null_mean", "nullLow": "null_low"}
_MATRICES |= {"nullHigh": "null_high", "p": "p", "pCell": "p_cell", "n": "n"}


def page_content(run: SavedRun) -> dict[str, Any]:
    """Everything that the page draws.

    Args:
        run: A run read from its folder.
    """
    return {
        "quantities": [_quantity(matrix, run.matrices[0].reading) for matrix in run.matrices],
        "best": {
            task: {"layer": str(best.layer), "layers": list(map(str, best.layers or ())), "text": best.text}
            for task, best in run.best_layers.items()
        },
        "pairs": [_pair(matrix) for matrix in run.layer_by_layer],
        "maps": _maps(run),
        "start": run.quantities.index(run.main_quantity) if run.matrices else 0,
        "level": SIGNIFICANCE_LEVEL,
    }


def _quantity(matrix: LayerByTask, primary: Reading) -> dict[str, Any]:
    return {
        "name": matrix.quantity.removeprefix("probe/"),
        "kind": "scores of probes" if matrix.quantity.startswith("probe/") else _kind(matrix.quantity),
        "unit": matrix.unit,
        "reading": str(matrix.reading),
        "primary": matrix.reading == primary,
        "signed": is_signed(matrix.quantity),
        "over": matrix.interval_over,
        "layers": list(map(str, matrix.layers)),
        "tasks": list(matrix.tasks),
        "clusters": list(matrix.clusters),
        "notes": {f"{layer}|{task}": note for (layer, task), note in matrix.notes.items()},
        **{key: _numbers(getattr(matrix, name)) for key, name in _MATRICES.items()},
    }


def _kind(quantity: str) -> str:
    """Under which heading of the menu a quantity stands: what comes before its first `/`, if anything."""
    head, slash, _ = quantity.partition("/")
    return head.replace("_", " ") if slash else "measures without probes"


def _numbers(values: np.ndarray) -> list[list[float | None]] | None:
    """Rounded numbers, rows are layers; `None` where unknown, and for the whole if nothing is known."""
    if not np.isfinite(values).any():
        return None
    return [[_rounded(value) for value in row] for row in values.tolist()]


def _rounded(value: float) -> float | None:
    return float(f"{value:.{_DIGITS}g}") if math.isfinite(value) else None


def _pair(matrix: LayerByLayer) -> dict[str, Any]:
    return {
        "quantity": matrix.quantity,
        "unit": matrix.unit,
        "task": matrix.task,
        "reading": str(matrix.reading),
        "xName": matrix.x_name,
        "yName": matrix.y_name,
        "xLayers": list(map(str, matrix.x_layers)),
        "yLayers": list(map(str, matrix.y_layers)),
        "value": _numbers(matrix.values),
        "n": matrix.n,
    }


def _maps(run: SavedRun) -> list[dict[str, Any]]:
    return [
        {
            "role": role,
            "layer": str(task_map.layer),
            "silhouette": _rounded(task_map.silhouette),
            "tasks": list(task_map.tasks),
            "points": [[_rounded(x), _rounded(y)] for x, y in task_map.points.tolist()],
        }
        for role, maps in run.maps.items()
        for task_map in maps
    ]


def score_table(run: SavedRun) -> list[dict[str, Any]]:
    """Each task's main score at its best layer, its baselines and its best layers, for a table of HTML."""
    cells = {
        (row.task, row.layer, row.metric, row.control): row
        for row in reversed(run.rows)  # the first reading last, so that it is the one kept
        if row.split == "test" and not row.role
    }
    table = []
    for task, best in run.best_layers.items():
        metrics = [name for name in dict.fromkeys(MAIN_METRIC.values()) if (task, best.layer, name, "") in cells]
        if not metrics:
            continue
        metric = metrics[0]
        score = cells[task, best.layer, metric, ""]
        table.append(
            {
                "task": task,
                "cluster": score.cluster,
                "metric": metric,
                "layer": best.layer,
                "layers": best.text,
                "score": score,
                "shuffled": control_of(cells, task, best.layer, metric),
                "selectivity": cells.get((task, best.layer, "selectivity", "")),
                "majority": cells.get((task, None, metric, "majority")),
                "n": score.n,
            }
        )
    return table


def row_table(provenance: Mapping[str, Any]) -> list[dict[str, Any]]:
    """How many rows each task has in each split, and how many of them were cut to the length limit."""
    cut = provenance.get("rows_cut", {})
    return [
        {
            "task": task,
            **{split: splits.get(split, 0) for split in ("train", "validation", "test")},
            "cut": cut.get(task),
        }
        for task, splits in provenance.get("tasks", {}).items()
    ]


def missing_cells(run: SavedRun) -> list[tuple[str, int]]:
    """Why cells of the main quantity have no value, each reason with their number."""
    counts: dict[str, int] = {}
    if run.matrices:
        matrix = run.matrix(run.main_quantity)
        for row, column in np.argwhere(~np.isfinite(matrix.values)):
            note = matrix.notes.get((matrix.layers[row], matrix.tasks[column])) or "no value"
            counts[note] = counts.get(note, 0) + 1
    return list(counts.items())


def small_tables(run: SavedRun) -> dict[str, dict[str, list[list[str]]]]:
    """Tables of at most 8 columns and 160 rows, by name and task, with rounded numbers; larger ones are files alone.

    Of tables with a column `layer` and more than 40 rows, the rows of the task's best layer are shown.
    """
    shown = {
        name: {task: _at_best_layer(run, task, table) for task, table in by_task.items()}
        for name, by_task in run.tables.items()
    }
    return {
        name.replace("_", " "): {
            task: [[_short(cell) for cell in row] for row in table] for task, table in by_task.items()
        }
        for name, by_task in shown.items()
        if all(len(table[0]) <= _MOST_COLUMNS and len(table) <= 1 + _MOST_ROWS for table in by_task.values())
    }


def _at_best_layer(run: SavedRun, task: str, table: list[list[str]]) -> list[list[str]]:
    best = run.best_layers.get(task)
    if best is None or "layer" not in table[0] or len(table) <= 1 + _LONG:
        return table
    column = table[0].index("layer")
    return [table[0], *(row for row in table[1:] if row[column] == str(best.layer))]


def _short(cell: str) -> str:
    """A cell as the page shows it: numbers with a point have four digits, missing ones none."""
    try:
        number = float(cell)
    except ValueError:
        return cell
    if math.isnan(number):
        return ""
    return format(number, ".4g").replace("-", "\N{MINUS SIGN}") if "." in cell or "e" in cell else cell


def whole_run_rows(run: SavedRun) -> list[Result]:
    """Numbers that belong to no layer or task of a matrix: boundaries of bands, agreements, scores of answers."""
    return [
        row
        for row in run.rows
        if row.layer is None and row.split == "test" and not row.control and math.isfinite(row.value)
    ] + [
        row
        for row in run.rows
        if row.task == ALL_TASKS and row.metric.startswith("boundary/") and row.layer is not None
    ]
