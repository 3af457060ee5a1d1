"""Writes `jobs.html`: the jobs of a sweep side by side, with a link to the page of each."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from urllib.parse import quote

from probes.files import write_text
from probes.report.page.build import REPORT, templates

_WIDTH, _MARGIN = 140, 6
"""Of the picture of a score, in pixels."""


@dataclass(frozen=True, kw_only=True)
class JobLine:
    """One job as the page shows it.

    Attributes:
        number: Of the job.
        overrides: What is its own.
        state: `finished`, `failed`, `interrupted` or `running`.
        score: Its score in words; empty without.
        value: The score; NaN without.
        low: Lower end of its 95 % interval; NaN without.
        high: Upper end; NaN without.
        layers: The best layer of each task.
        folder: Of the run, relative to the sweep's.
        error: Why it has no result.
    """

    number: int
    overrides: str
    state: str
    score: str
    value: float
    low: float
    high: float
    layers: str
    folder: str
    error: str


def write_jobs_page(sweep: Path, jobs: Sequence[JobLine], *, common: str) -> Path:
    """Write `jobs.html` into a sweep's folder, and return its path.

    Args:
        sweep: The folder.
        jobs: In their order.
        common: The overrides that all jobs share.
    """
    ends = [end for job in jobs for end in (job.value, job.low, job.high) if not math.isnan(end)]
    low, high = (min(ends), max(ends)) if ends else (0.0, 1.0)
    states = Counter(job.state for job in jobs)
    page = (
        templates()
        .get_template("jobs.html.jinja")
        .render(
            title=f"Sweep {sweep.name}",
            counts=f"{len(jobs)} jobs: " + ", ".join(f"{number} {state}" for state, number in states.items()) + ".",
            common=common,
            low=low,
            high=high,
            jobs=[_shown(sweep, job, low, high) for job in jobs],
            errors=[job for job in jobs if job.error],
            style=(files("probes.report.page") / "page.css").read_text("utf-8"),
        )
    )
    return write_text(sweep / "jobs.html", page)


def _shown(sweep: Path, job: JobLine, low: float, high: float) -> dict[str, object]:
    """What the template reads of a job."""

    def place(value: float) -> float | None:
        if math.isnan(value):
            return None
        share = 0.5 if high == low else (value - low) / (high - low)
        return round(_MARGIN + share * (_WIDTH - 2 * _MARGIN), 1)

    dot = place(job.value)
    report = Path(job.folder) / REPORT
    return {
        "number": job.number,
        "overrides": job.overrides,
        "state": job.state,
        "score": job.score,
        "dot": dot,
        "from": dot if math.isnan(job.low) else place(job.low),
        "to": dot if math.isnan(job.high) else place(job.high),
        "layers": job.layers,
        "report": quote(report.as_posix()) if (sweep / report).is_file() else "",
    }
