"""The last screen of a run without probes: one line a task, where over the layers a quantity is lowest and highest."""

from __future__ import annotations

import math
from collections.abc import Iterable
from statistics import fmean

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from probes.report.heatmap_figure import LEVEL
from probes.values import Result


def layer_table(results: Iterable[Result], metric: str) -> Table:
    """Arrange one quantity of the first reading that has it: lowest, highest and mean over layers, by task.

    Args:
        results: Any results; those of the metric that have a layer and a value are shown.
        metric: Name of the quantity.
    """
    table = Table(title=metric, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("task", overflow="fold")
    for name in ("lowest [95 %]", "at layer", "highest [95 %]", "at layer", "mean", f"layers with p < {LEVEL}", "n"):
        table.add_column(name, justify="right", no_wrap="[" in name)
    for task, cells in _by_task(results, metric).items():
        low, high = (pick(cells, key=lambda cell: cell.value) for pick in (min, max))
        tested = [cell.p for cell in cells if cell.p is not None]
        passed = f"{sum(p < LEVEL for p in tested)} of {len(tested)}" if tested else ""
        mean = format(fmean(cell.value for cell in cells), ".3f")
        ends = [text for cell in (low, high) for text in (_with_interval(cell), str(cell.layer))]
        table.add_row(escape(task), *ends, mean, passed, f"{cells[0].n:,}" if cells[0].n is not None else "")
    return table


def _by_task(results: Iterable[Result], metric: str) -> dict[str, list[Result]]:
    reading = None
    tasks: dict[str, list[Result]] = {}
    for result in results:
        if result.metric != metric or result.layer is None or math.isnan(result.value):
            continue
        own = (result.stack, result.site, result.pooling)
        reading = own if reading is None else reading
        if own == reading:
            tasks.setdefault(result.task, []).append(result)
    return tasks


def _with_interval(cell: Result) -> str:
    if cell.ci_low is None or cell.ci_high is None:
        return f"{cell.value:.3f}"
    return escape(f"{cell.value:.3f} [{cell.ci_low:.2f}, {cell.ci_high:.2f}]")
