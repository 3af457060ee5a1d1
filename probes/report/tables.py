"""What a run prints: tables for the screen."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean

from rich.box import SIMPLE_HEAD
from rich.console import Console, RenderableType
from rich.markup import escape
from rich.table import Table

from probes.report.figures.heatmap import LEVEL
from probes.values import Layer, Reading, Result

MAIN_METRICS = ("macro_f1", "r2")  # whichever of them a task has; selectivity is measured on it
_BASELINES = ("shuffled labels", "selectivity", "accuracy", "majority accuracy")
_WIDTH_OF_A_FILE = 120  # rich assumes 80 columns where there is no terminal, and would fold the table


def best_layer_table(
    results: Iterable[Result],
    *,
    best_layers: Mapping[str, Layer],
    classes: Mapping[str, int] | None = None,
    reading: Reading | None = None,
) -> Table:
    """Arrange, for each task, the test scores at its best layer beside their baselines.

    Nothing is computed: a number the results don't hold is left blank.

    Args:
        results: Any results; those of the test split, the best layers and the reading are shown.
        best_layers: Each task's layer chosen on validation; decides which tasks are shown, and their order.
        classes: Each task's number of classes; without it there is no such column.
        reading: Stack, site and pooling to show; by default that of the first result which has a layer.

    Raises:
        ValueError: Two results claim one cell, such as those of two seeds.
    """
    tested = _cells(results, reading)
    title = "Test scores at the best layer (chosen on validation)"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("task", overflow="fold")
    if classes is not None:
        table.add_column("classes", justify="right")
    metrics = [_main_metric(tested, task, layer) for task, layer in best_layers.items()]
    score = " or ".join(dict.fromkeys(filter(None, metrics))) or MAIN_METRICS[0]
    for name in ("best layer", f"{score} [95 %]", *_BASELINES, "n"):
        longest_word = max(3, *map(len, name.split()))
        table.add_column(name, justify="right", min_width=longest_word, no_wrap="[" in name)
    for (task, layer), metric in zip(best_layers.items(), metrics, strict=True):
        count = [] if classes is None else [str(classes.get(task, ""))]
        table.add_row(escape(task), *count, str(layer), *_scores(tested, task, layer, metric or MAIN_METRICS[0]))
    return table


def print_best_layers(
    results: Sequence[Result],
    *,
    best_layers: Mapping[str, Layer],
    figure: Path | None = None,
    output_dir: Path | None = None,
    classes: Mapping[str, int] | None = None,
    console: Console | None = None,
) -> None:
    """Print the table of best layers, then where the picture and everything else lie.

    Args:
        results: As for `best_layer_table`.
        best_layers: As for `best_layer_table`.
        figure: A picture to point at.
        output_dir: The folder to point at.
        classes: As for `best_layer_table`.
        console: Where to print; by default the standard output.
    """
    lines = {"picture": figure, "everything": output_dir}
    table = best_layer_table(results, best_layers=best_layers, classes=classes)
    print_screen(table, *(f"{name}: {path}" for name, path in lines.items() if path is not None), console=console)


def print_screen(*parts: RenderableType, console: Console | None = None) -> None:
    """Print tables and lines; lines are not folded, so that paths can be copied, nor read as markup."""
    if console is None:
        console = Console()
        console.width = console.width if console.is_terminal else max(console.width, _WIDTH_OF_A_FILE)
    for part in parts:
        if isinstance(part, str):
            console.print(part, markup=False, highlight=False, soft_wrap=True)
        else:
            console.print(part)


_Cell = tuple[str, Layer | None, str, str]  # task, layer, metric, control


def _cells(results: Iterable[Result], reading: Reading | None) -> dict[_Cell, Result]:
    """Test results of one reading; a baseline that belongs to no layer belongs to every reading."""
    cells: dict[_Cell, Result] = {}
    for result in results:
        own = Reading(result.stack, result.site, result.pooling)
        if result.layer is not None and reading is None:
            reading = own
        if result.split != "test" or (result.layer is not None and own != reading):
            continue
        cell = (result.task, result.layer, result.metric, result.control)
        if result.layer is not None and cell in cells:
            raise ValueError(
                f"Two results claim {result.metric} of task '{result.task}' at layer {result.layer}. Hand over those "
                "of one study, role, probe and seed."
            )
        cells.setdefault(cell, result)
    return cells


def _main_metric(cells: Mapping[_Cell, Result], task: str, layer: Layer) -> str | None:
    return next((metric for metric in MAIN_METRICS if (task, layer, metric, "") in cells), None)


def _scores(cells: Mapping[_Cell, Result], task: str, layer: Layer, metric: str) -> list[str]:
    score = cells.get((task, layer, metric, ""))
    return [
        _number(score) + _interval(score),
        _number(cells.get((task, layer, metric, "shuffled_labels"))),
        _number(cells.get((task, layer, "selectivity", "")), sign="+"),
        _number(cells.get((task, layer, "accuracy", ""))),
        _number(cells.get((task, None, "accuracy", "majority"))),
        "" if score is None or score.n is None else f"{score.n:,}",
    ]


def _number(result: Result | None, *, sign: str = "") -> str:
    return "" if result is None else format(result.value, f"{sign}.3f")


def _interval(result: Result | None) -> str:
    if result is None or result.ci_low is None or result.ci_high is None:
        return ""
    return escape(f" [{result.ci_low:.2f}, {result.ci_high:.2f}]")


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
        ends = [text for cell in (low, high) for text in (_value_with_interval(cell), str(cell.layer))]
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


def _value_with_interval(cell: Result) -> str:
    if cell.ci_low is None or cell.ci_high is None:
        return f"{cell.value:.3f}"
    return escape(f"{cell.value:.3f} [{cell.ci_low:.2f}, {cell.ci_high:.2f}]")


_ANSWER_METRICS = {
    "answer_loss_nats": "loss (nats)",
    "exact_match": "exact match",
    "rouge_l": "ROUGE-L",
    "chrf": "chrF",
}


def learning_table(results: Iterable[Result]) -> Table:
    """Arrange test scores of answers: base → tuned, a line a model.

    Args:
        results: Any results; those of the roles `base`, `control` and `experimental` with an answer metric are shown.
            Models of one task and role after the first are told apart by their seeds.
    """
    base: dict[tuple[str, str], Result] = {}
    tuned: dict[tuple[str, str, int | None], dict[str, Result]] = {}
    for result in results:
        if result.metric not in _ANSWER_METRICS or result.layer is not None:
            continue
        if result.role == "base":
            base[result.task, result.metric] = result
        else:
            tuned.setdefault((result.task, result.role, result.seed), {})[result.metric] = result
    table = Table(
        title="Test answers of the base → of the tuned model", title_justify="left", box=SIMPLE_HEAD, pad_edge=False
    )
    table.add_column("model")
    for title in _ANSWER_METRICS.values():
        table.add_column(title, justify="right", no_wrap=True)
    first: dict[tuple[str, str], int | None] = {}
    for task, role, seed in tuned:
        first.setdefault((task, role), seed)
    for (task, role, seed), scores in tuned.items():
        again = "" if seed in {None, first[task, role]} else f", seed {seed}"
        cells = [_change(base.get((task, metric)), scores.get(metric)) for metric in _ANSWER_METRICS]
        table.add_row(escape(f"{task} ({role}{again})"), *cells)
    return table


def _change(before: Result | None, after: Result | None) -> str:
    return f"{_answer_score(before)} → {_answer_score(after)}"


def _answer_score(result: Result | None) -> str:
    return "" if result is None or result.value != result.value else f"{result.value:.3f}"
