"""The audit for nuisances as a table: raw, residual and nuisance-only scores of each task and layer, and verdicts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from probes.metrics import MAIN_METRIC
from probes.report.csv_files import write_table
from probes.values import SIGNIFICANCE_LEVEL, BestLayers, Layer, Reading, Result

AUDIT_FILE = "audit.csv"
_ALONE, _STRONGEST = "nuisance/alone_", "strongest"


@dataclass(frozen=True)
class AuditRow:
    """The audit of one task at one layer; each number is a row of `results.csv`, `None` where there is none.

    Attributes:
        task: Name of the task.
        reading: Stack, site and pooling.
        layer: The layer.
        metric: The metric of all scores.
        raw: The probe's score.
        residual: Its score after nuisances are regressed out.
        difference: Raw minus residual, paired.
        within_strata: The score within strata of the strongest nuisance.
        nuisance: The strongest nuisance.
        alone: Its score without activations.
        verdict: `stands`, `explained by …`, `not identifiable`, or empty where there is nothing to explain.
        reason: What decided.
    """

    task: str
    reading: Reading
    layer: Layer
    metric: str
    raw: Result | None
    residual: Result
    difference: Result | None
    within_strata: Result | None
    nuisance: str
    alone: Result | None
    verdict: str
    reason: str


def audit_table(rows: Iterable[Result]) -> list[AuditRow]:
    """The audited layers of each task, in the order of the rows; empty if nothing was audited.

    A score that is above chance by itself, and not when all cells are corrected for, has no verdict here.
    """
    rows = [row for row in rows if row.split == "test" and not row.control and not row.role]
    cells = {(row.metric, row.task, _reading(row), row.layer): row for row in rows}
    strongest = {
        (row.task, _reading(row)): row
        for row in rows
        if row.metric.startswith(_ALONE) and row.note.startswith(_STRONGEST)
    }
    table = []
    for (quantity, task, reading, layer), residual in cells.items():
        metric = quantity.removeprefix("nuisance/residual_")
        if layer is None or metric == quantity or metric not in MAIN_METRIC.values():
            continue
        place = (task, reading, layer)
        alone = strongest.get((task, reading))
        raw = cells.get((metric, *place))
        verdict, reason = _verdict(residual.note)
        if verdict and raw is not None and raw.p is not None and raw.p >= SIGNIFICANCE_LEVEL:
            verdict, reason = "", f"the score is not above chance, corrected for all cells (p = {raw.p:.2g})"
        table.append(
            AuditRow(
                task=task,
                reading=reading,
                layer=layer,
                metric=metric,
                raw=raw,
                residual=residual,
                difference=cells.get((f"nuisance/raw_minus_residual_{metric}", *place)),
                within_strata=cells.get((f"nuisance/within_strata_{metric}", *place)),
                nuisance="" if alone is None else alone.metric.removeprefix(_ALONE).replace("_", " "),
                alone=alone,
                verdict=verdict,
                reason=reason,
            )
        )
    return table


def audit_at_best_layers(rows: Iterable[Result], best_layers: Mapping[str, BestLayers]) -> list[AuditRow]:
    """The audit of each task at the layer that validation rows chose, for the run's first reading."""
    first: dict[str, AuditRow] = {}
    for row in audit_table(rows):
        best = best_layers.get(row.task)
        if best is not None and row.layer == best.layer:
            first.setdefault(row.task, row)
    return list(first.values())


def write_audit(table: Sequence[AuditRow], path: Path) -> Path:
    """Write `audit.csv`, a row for each task and layer; every score with both ends of its 95 % interval."""
    scores = ("raw", "residual", "difference", "within_strata", "alone")
    header = ["task", "reading", "layer", "metric", "verdict", "reason", "strongest_nuisance"]
    header += [f"{score}{end}" for score in scores for end in ("", "_low", "_high")]
    rows = []
    for row in table:
        numbers = [_number(getattr(row, score), name) for score in scores for name in ("value", "ci_low", "ci_high")]
        place = [row.task, str(row.reading), str(row.layer), row.metric]
        rows.append([*place, row.verdict, row.reason, row.nuisance, *numbers])
    return write_table(path, header, rows)


def _verdict(note: str) -> tuple[str, str]:
    """The word and the reason of a note; a note without a word is a reason."""
    word, _, reason = note.partition("; ")
    is_word = word in {"stands", "not identifiable"} or word.startswith("explained by ")
    return (word, reason) if is_word else ("", note)


def _number(row: Result | None, name: str) -> str:
    value = None if row is None else getattr(row, name)
    return "" if value is None else repr(float(value))


def _reading(row: Result) -> Reading:
    return Reading(row.stack, row.site, row.pooling)
