"""The jobs of a sweep side by side: `jobs.csv`, `jobs.html` and a table for the terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from rich.markup import escape

from probes.report.csv_files import read_best_layers, read_results, write_table
from probes.report.page.jobs import JobLine, write_jobs_page
from probes.report.tables import empty_table, path_lines, print_screen
from probes.runs.job_records import JobRecord
from probes.runs.run_folder import read_state
from probes.values import Result

JOB_COLUMNS = (
    "job", "overrides", "state", "metric", "score", "ci_low", "ci_high", "best_layers", "objective", "started",
    "ended", "folder", "error",
)  # fmt: skip
"""Of `jobs.csv`. `score` is the mean over tasks of the test score at each task's best layer, with a 95 % interval that
takes the tasks as independent; `best_layers` is a text such as `tense 15; topic 22`."""

_TASKS_SHOWN = 3


@dataclass(frozen=True)
class _Score:
    """What a job found at the best layers of its tasks; NaN where it is unknown."""

    metric: str = ""
    value: float = math.nan
    low: float = math.nan
    high: float = math.nan
    best_layers: Mapping[str, str] | None = None


def report_jobs(sweep: Path, records: Sequence[JobRecord]) -> None:
    """Write `jobs.csv` and `jobs.html` of a sweep, and print its jobs; what has failed is listed with its error."""
    scores = [_score(sweep / record.folder) if record.state == "finished" else _Score() for record in records]
    path = write_table(
        sweep / "jobs.csv", JOB_COLUMNS, [_row(sweep, *job) for job in zip(records, scores, strict=True)]
    )
    common = set(records[0].overrides).intersection(*(record.overrides for record in records)) if records else set()
    table = empty_table("Jobs of the sweep: mean over tasks of test scores at the best layer [95 %]")
    for column in ("job", "overrides", "state", "score", "best layers"):
        table.add_column(column, overflow="fold", no_wrap=column in {"job", "state", "score"})
    lines = []
    for record, score in zip(records, scores, strict=True):
        line = JobLine(
            number=record.job,
            overrides=" ".join(text for text in record.overrides if text not in common or len(records) == 1),
            state=record.state,
            score=_text_of(score),
            value=score.value,
            low=score.low,
            high=score.high,
            layers=_layers(score),
            folder=record.folder,
            error=record.error,
        )
        lines.append(line)
        table.add_row(*map(escape, (str(line.number), line.overrides, line.state, line.score, line.layers)))
    shared = " ".join(text for text in records[0].overrides if text in common) if len(records) > 1 else ""
    page = write_jobs_page(sweep, lines, common=shared)
    errors = [f"job {record.job} {record.state}: {record.error}" for record in records if record.error]
    print_screen(table, *path_lines(jobs=path, report=page), *errors)


def _row(sweep: Path, record: JobRecord, score: _Score) -> list[str]:
    state = read_state(sweep / record.folder)
    if state is not None and record.state != state.state:
        state = None  # of another run, in whose folder this job was refused
    numbers = (score.value, score.low, score.high)
    layers = "; ".join(f"{task} {layer}" for task, layer in (score.best_layers or {}).items())
    return [
        str(record.job),
        " ".join(record.overrides),
        record.state,
        score.metric,
        *("" if math.isnan(number) else repr(float(number)) for number in numbers),
        layers,
        "" if state is None or math.isnan(state.objective) else repr(state.objective),
        "" if state is None else state.started,
        "" if state is None else state.ended or "",
        record.folder,
        record.error,
    ]


def _score(folder: Path) -> _Score:
    """The scores at the best layers in a run's folder; empty for studies that choose none."""
    try:
        best = {own.task: own for own in read_best_layers(folder / "best_layers.csv")}
        results = read_results(folder / "results.csv")
    except (OSError, ValueError):
        return _Score()
    layers = {task: str(own.layer) for task, own in best.items()}
    cells: dict[str, Result] = {}
    for result in results:
        own = best.get(result.task)
        chosen = own is not None and (result.metric, result.layer) == (own.metric, own.layer)
        if chosen and (result.split, result.control) == ("test", ""):
            cells.setdefault(result.task, result)  # the first reading is the one the layers were chosen for
    metrics = {cell.metric for cell in cells.values()}
    if len(metrics) != 1:
        return _Score(best_layers=layers)
    return _mean(metrics.pop(), list(cells.values()), layers)


def _mean(metric: str, cells: Sequence[Result], layers: Mapping[str, str]) -> _Score:
    """The mean of scores; its interval is that of the score itself where there is only one."""
    known = [cell for cell in cells if not math.isnan(cell.value)]
    if not known:
        return _Score(metric, best_layers=layers)
    value = fmean(cell.value for cell in known)
    ends = [(cell.ci_low, cell.ci_high) for cell in known if cell.ci_low is not None and cell.ci_high is not None]
    if len(ends) < len(known):
        return _Score(metric, value, best_layers=layers)
    if len(known) == 1:
        return _Score(metric, value, *ends[0], best_layers=layers)
    half_width = math.hypot(*((high - low) / 2 for low, high in ends)) / len(ends)  # errors of independent tasks
    return _Score(metric, value, value - half_width, value + half_width, layers)


def _text_of(score: _Score) -> str:
    if math.isnan(score.value):
        return ""
    interval = "" if math.isnan(score.low) else f" [{score.low:.2f}, {score.high:.2f}]"
    return f"{score.metric} {score.value:.3f}{interval}"


def _layers(score: _Score) -> str:
    layers = [f"{task} {layer}" for task, layer in (score.best_layers or {}).items()]
    more = len(layers) - _TASKS_SHOWN
    return ", ".join(layers[:_TASKS_SHOWN]) + (f" and {more} more" if more > 0 else "")
