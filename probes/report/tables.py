"""What a run prints: tables for the terminal."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

from rich.box import SIMPLE_HEAD
from rich.console import Console, RenderableType
from rich.markup import escape
from rich.table import Table

from probes.metrics import MAIN_METRIC
from probes.values import SIGNIFICANCE_LEVEL, BestLayers, Layer, Reading, Result, layer_depth

_MAIN_METRICS = tuple(dict.fromkeys(MAIN_METRIC.values()))

_CONTROL = "shuffled labels"
_BASELINES = (_CONTROL, "selectivity", "accuracy", "majority accuracy")
_ANSWER_METRICS = {
    "answer_loss_nats": "loss (nats)",
    "exact_match": "exact match",
    "rouge_l": "ROUGE-L",
    "chrf": "chrF",
}
_WIDTH_OF_FILES = 136  # columns; where there is no terminal, rich assumes 80 and would fold the tables

_UNBROKEN_NAME = 20
"""Names of tasks of so many characters stand on one line."""
_FULL_TABLE = 120  # columns; in a narrower terminal the table of best layers has fewer
_WIDTH_OF_PROFILE = 16  # characters
_BARS = "▁▂▃▄▅▆▇█"
_WIDTH_OF_INTERVALS = 20  # characters; a number with its interval has 18

_Cell = tuple[str, Layer | None, str, str]  # task, layer, metric, control


def best_layer_table(
    results: Iterable[Result],
    *,
    best_layers: Mapping[str, BestLayers],
    classes: Mapping[str, int] | None = None,
    reading: Reading | None = None,
    width: int | None = None,
) -> Table:
    """Arrange the test scores of each task at its best layer beside their baselines, one row per task.

    The column `best_layers` lists the layers that validation rows cannot tell from the best one. A number that is not
    among the results is left blank.

    Args:
        results: Any results; those of the test split, the best layers and the reading are shown.
        best_layers: Each task's layers chosen on validation; they decide which tasks are shown, and in which order.
        classes: Each task's number of classes; `None` omits this column.
        reading: Stack, site and pooling to show; by default that of the first result that has a layer.
        width: Columns of the terminal. Below 120 the table has only the layers, the score, selectivity and a sketch of
            the score over layers; `None` for all columns.

    Raises:
        ValueError: Two results belong to the same cell, such as those of two seeds.
    """
    cells = _test_cells(results, reading)
    table = empty_table("Test scores at the best layer (chosen on validation)")
    rows = [_BestRow.of(cells, best) for best in best_layers.values()]
    score = " or ".join(dict.fromkeys(row.metric for row in rows)) or _MAIN_METRICS[0]
    score = _with_interval(score, [row.score for row in rows])
    full = width is None or width >= _FULL_TABLE
    _add_task_column(table, [row.best.task for row in rows])
    if full and classes is not None:
        table.add_column("classes", justify="right")
    names = ("best layer", "best_layers", score, *_BASELINES, "n") if full else ("best layers", score, "selectivity")
    if any(control == "word_types" for _, _, _, control in cells):
        names = tuple("control labels" if name == _CONTROL else name for name in names)
    for name in names:
        longest_word = max(3, *map(len, name.split()))
        table.add_column(name, justify="right", min_width=longest_word, no_wrap="[" in name)
    if not full:
        table.add_column("over layers", no_wrap=True)
    for row in rows:
        task = row.best.task
        count = [str(classes.get(task, ""))] if full and classes is not None else []
        if full:
            table.add_row(escape(task), *count, str(row.best.layer), row.best.text, *row.numbers())
        else:
            layers = f"{row.best.layer} ({row.best.text})" if row.best.text else str(row.best.layer)
            profile = sparkline(_over_layers(cells, task, row.metric), _WIDTH_OF_PROFILE)
            table.add_row(escape(task), layers, _number_with_interval(row.score), row.selectivity(), profile)
    return table


class _BestRow(NamedTuple):
    """What the table of best layers shows of one task."""

    best: BestLayers
    metric: str
    cells: Mapping[_Cell, Result]

    @classmethod
    def of(cls, cells: Mapping[_Cell, Result], best: BestLayers) -> _BestRow:
        return cls(best, _main_metric(cells, best.task, best.layer) or _MAIN_METRICS[0], cells)

    @property
    def score(self) -> Result | None:
        return self.cells.get((self.best.task, self.best.layer, self.metric, ""))

    def selectivity(self) -> str:
        return _number(self.cells.get((self.best.task, self.best.layer, "selectivity", "")), sign="+")

    def numbers(self) -> list[str]:
        """The score, its baselines and its number of examples, in the order of the columns of the full table."""
        task, layer = self.best.task, self.best.layer
        return [
            _number_with_interval(self.score),
            _number(control_of(self.cells, task, layer, self.metric)),
            self.selectivity(),
            _number(self.cells.get((task, layer, "accuracy", ""))),
            _number(self.cells.get((task, None, "accuracy", "majority"))),
            _count(self.score),
        ]


def control_of(cells: Mapping[_Cell, Result], task: str, layer: Layer | None, metric: str) -> Result | None:
    """The score of a cell's controls: of shuffled labels, or of words that have a random label each."""
    found = (cells.get((task, layer, metric, control)) for control in ("shuffled_labels", "word_types"))
    return next((result for result in found if result is not None), None)


def sparkline(values: Sequence[float], width: int) -> str:
    """Values as bars of text from their smallest to their largest, at most `width` of them; a space where unknown.

    More values are averaged in groups of neighbours.

    >>> sparkline([0.1, 0.2, float("nan"), 0.8], 4), sparkline([1.0, 1.0], 4)
    ('▁▂ █', '▄▄')
    """
    if len(values) > width:
        ends = [round(place * len(values) / width) for place in range(width + 1)]
        groups = [[v for v in values[a:b] if not math.isnan(v)] for a, b in pairwise(ends)]
        values = [fmean(group) if group else math.nan for group in groups]
    known = [value for value in values if not math.isnan(value)]
    low, high = (min(known), max(known)) if known else (0.0, 0.0)
    top = len(_BARS) - 1
    return "".join(
        " " if math.isnan(value) else _BARS[round((value - low) / (high - low) * top) if high > low else top // 2]
        for value in values
    )


def _over_layers(cells: Mapping[_Cell, Result], task: str, metric: str) -> list[float]:
    """A task's scores from the first layer to the last."""
    by_layer = {
        layer: row.value
        for (of_task, layer, name, control), row in cells.items()
        if layer is not None and (of_task, name, control) == (task, metric, "")
    }
    return [by_layer[layer] for layer in sorted(by_layer, key=layer_depth)]


def _add_task_column(table: Table, tasks: Iterable[str]) -> None:
    """The first column, in which only long names are broken, however narrow the terminal is."""
    longest = max(map(len, tasks), default=0)
    table.add_column("task", overflow="fold", min_width=min(longest, _UNBROKEN_NAME))


def layer_table(results: Iterable[Result], metric: str) -> Table:
    """Summarise one quantity over layers, one row per task: its lowest and highest value, its mean, significant layers.

    The first reading that has the quantity is shown.

    Args:
        results: Any results; those of the metric that have a layer and a value are shown.
        metric: Name of the quantity.
    """
    table = empty_table(metric)
    by_task = _by_task(results, metric)
    _add_task_column(table, by_task)
    significant = f"layers with p < {SIGNIFICANCE_LEVEL}"
    shown = [result for over_layers in by_task.values() for result in over_layers]
    lowest, highest = (_with_interval(name, shown) for name in ("lowest", "highest"))
    for name in (lowest, "at layer", highest, "at layer", "mean", significant, "n"):
        table.add_column(name, justify="right", no_wrap="[" in name)
    for task, over_layers in by_task.items():
        extremes = [pick(over_layers, key=lambda result: result.value) for pick in (min, max)]
        tested = [result.p for result in over_layers if result.p is not None]
        passed = f"{sum(p < SIGNIFICANCE_LEVEL for p in tested)} of {len(tested)}" if tested else ""
        mean = format(fmean(result.value for result in over_layers), ".3f")
        ends = [text for result in extremes for text in (_number_with_interval(result), str(result.layer))]
        table.add_row(escape(task), *ends, mean, passed, _count(over_layers[0]))
    return table


def difference_table(results: Iterable[Result], *, label: str, reference: str) -> Table:
    """Arrange the differences between two runs: at the best layers, and where they are largest.

    There is one row per task, or per task and reading if the runs have several.

    Args:
        results: Of `probes compare`.
        label: Name of the run whose scores are compared.
        reference: Name of the run that is subtracted.
    """
    own = [row for row in results if row.backbone == label and row.metric.startswith("difference")]
    over_layers: dict[tuple[str, Reading], list[Result]] = {}
    for row in own:
        if row.layer is not None and not math.isnan(row.value):
            over_layers.setdefault((row.task, _reading_of(row)), []).append(row)
    several = len({reading for _, reading in over_layers}) > 1
    names = {key: f"{key[0]} ({key[1]})" if several else key[0] for key in over_layers}
    table = empty_table(f"Score of {label} minus score of {reference}, same test rows")
    _add_task_column(table, names.values())
    at_best = [row for row in own if row.metric.startswith("difference_at_best_layers/")]
    for name in (_with_interval("at best layers", at_best), "p", "largest at", "", "p < 0.05", "n"):
        table.add_column(name, justify="right", no_wrap="[" in name)
    best_of = {(row.task, _reading_of(row)): row for row in reversed(at_best)}
    for key, rows in over_layers.items():
        largest = max(rows, key=lambda row: abs(row.value))
        passed = sum(row.p is not None and row.p < SIGNIFICANCE_LEVEL for row in rows)
        best = best_of.get(key)
        p = "" if best is None or best.p is None else f"{best.p:.2g}"
        table.add_row(
            escape(names[key]),
            _number_with_interval(best, sign="+"),
            p,
            f"layer {largest.layer}",
            _number_with_interval(largest, sign="+"),
            f"{passed} of {len(rows)}",
            _count(largest),
        )
    return table


def learning_table(results: Iterable[Result]) -> Table:
    """Arrange the test scores of a model's answers before and after tuning, one row per tuned model.

    Args:
        results: Any results; those of the roles `base`, `control` and `experimental` with a score of answers are shown.
            The seed tells models of the same task and role apart, from the second one on.
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
    table = empty_table("Test scores of answers: base model → tuned model")
    table.add_column("model")
    for title in _ANSWER_METRICS.values():
        table.add_column(title, justify="right", no_wrap=True)
    first_seed: dict[tuple[str, str], int | None] = {}
    for task, role, seed in tuned:
        first_seed.setdefault((task, role), seed)
    for (task, role, seed), scores in tuned.items():
        repeated = "" if seed in {None, first_seed[task, role]} else f", seed {seed}"
        changes = [f"{_number(base.get((task, name)))} → {_number(scores.get(name))}" for name in _ANSWER_METRICS]
        table.add_row(escape(f"{task} ({role}{repeated})"), *changes)
    return table


def print_best_layers(
    results: Sequence[Result],
    *,
    best_layers: Mapping[str, BestLayers],
    page: Path | None = None,
    figure: Path | None = None,
    output_dir: Path | None = None,
    classes: Mapping[str, int] | None = None,
    console: Console | None = None,
) -> None:
    """Print the table of best layers, then the paths of the report, the figure and everything else.

    Args:
        results: As for `best_layer_table`.
        best_layers: As for `best_layer_table`.
        page: The report to point at.
        figure: A figure to point at.
        output_dir: The folder to point at.
        classes: As for `best_layer_table`.
        console: Where to print; by default the standard output.
    """
    console = _terminal() if console is None else console
    table = best_layer_table(results, best_layers=best_layers, classes=classes, width=console.width)
    print_screen(table, *path_lines(report=page, picture=figure, everything=output_dir), console=console)


def path_lines(**paths: Path | None) -> list[str]:
    """A line `name: path` for each file or folder that there is; relative to the working folder if it lies in it."""
    here = Path.cwd()
    known = {name: path.absolute() for name, path in paths.items() if path is not None}
    return [f"{name}: {path.relative_to(here) if path.is_relative_to(here) else path}" for name, path in known.items()]


def print_screen(*parts: RenderableType, console: Console | None = None) -> None:
    """Print tables and lines; lines are neither folded, so that paths can be copied, nor read as markup."""
    console = _terminal() if console is None else console
    for part in parts:
        if isinstance(part, str):
            console.print(part, markup=False, highlight=False, soft_wrap=True)
        else:
            console.print(part)


def _terminal() -> Console:
    """The standard output; where it is no terminal, wide enough for all tables."""
    console = Console()
    console.width = console.width if console.is_terminal else max(console.width, _WIDTH_OF_FILES)
    return console


def empty_table(title: str) -> Table:
    """A table in the style of all tables of this package, without columns."""
    return Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)


def _test_cells(results: Iterable[Result], reading: Reading | None) -> dict[_Cell, Result]:
    """Test results of one reading; a baseline without a layer belongs to every reading."""
    cells: dict[_Cell, Result] = {}
    for result in results:
        if result.layer is not None and reading is None:
            reading = _reading_of(result)
        if result.split != "test" or (result.layer is not None and _reading_of(result) != reading):
            continue
        cell = (result.task, result.layer, result.metric, result.control)
        if result.layer is not None and cell in cells:
            raise ValueError(
                f"Two results give {result.metric} of task '{result.task}' at layer {result.layer}. Pass results of "
                "one study, role, probe and seed."
            )
        cells.setdefault(cell, result)
    return cells


def _by_task(results: Iterable[Result], metric: str) -> dict[str, list[Result]]:
    """Results of a metric over layers, by task, for the first reading that has it; NaN values are left out."""
    reading: Reading | None = None
    tasks: dict[str, list[Result]] = {}
    for result in results:
        if result.metric != metric or result.layer is None or math.isnan(result.value):
            continue
        reading = _reading_of(result) if reading is None else reading
        if _reading_of(result) == reading:
            tasks.setdefault(result.task, []).append(result)
    return tasks


def _reading_of(result: Result) -> Reading:
    return Reading(result.stack, result.site, result.pooling)


def _main_metric(cells: Mapping[_Cell, Result], task: str, layer: Layer) -> str | None:
    return next((metric for metric in _MAIN_METRICS if (task, layer, metric, "") in cells), None)


def _with_interval(name: str, results: Iterable[Result | None]) -> str:
    """Title of a column of numbers with intervals that says what these are over; tasks may differ in that."""
    over = dict.fromkeys(result.interval_over for result in results if result is not None and result.interval_over)
    interval = f"[95 % over {' or '.join(over)}]" if over else "[95 %]"
    return textwrap.fill(f"{name} {interval}", _WIDTH_OF_INTERVALS)


def _number(result: Result | None, *, sign: str = "") -> str:
    return "" if result is None or math.isnan(result.value) else format(result.value, f"{sign}.3f")


def _number_with_interval(result: Result | None, *, sign: str = "") -> str:
    if result is None or result.ci_low is None or result.ci_high is None:
        return _number(result, sign=sign)
    return escape(f"{_number(result, sign=sign)} [{result.ci_low:.2f}, {result.ci_high:.2f}]")


def _count(result: Result | None) -> str:
    return "" if result is None or result.n is None else f"{result.n:,}"
