"""What became of each job of a sweep, one small file a job, whichever process or machine ran it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from probes.files import write_json
from probes.runs.masking import mask_secrets
from probes.runs.run_folder import read_state

_FOLDER = ".jobs"


@dataclass(frozen=True, kw_only=True)
class JobRecord:
    """A job of a sweep.

    Attributes:
        job: Its number in the sweep.
        overrides: What its command line changes in the config.
        folder: The job's own folder, within that of the sweep.
        state: As in `run_state.json`.
        error: Why it failed.
    """

    job: int
    overrides: Sequence[str]
    folder: str
    state: str
    error: str = ""


def write_record(sweep: Path, record: JobRecord) -> None:
    """Keep a record in a sweep's folder, in place of an earlier one of the same job."""
    write_json(sweep / _FOLDER / f"{record.job}.json", mask_secrets(asdict(record)))


def forget_records(sweep: Path) -> None:
    """Forget the jobs of an earlier start of a sweep."""
    shutil.rmtree(sweep / _FOLDER, ignore_errors=True)


def read_records(sweep: Path) -> list[JobRecord]:
    """The jobs that have begun since the sweep was last started, in the order of their numbers."""
    records = []
    for path in sorted((sweep / _FOLDER).glob("*.json"), key=lambda path: int(path.stem)):
        record = JobRecord(**json.loads(path.read_text(encoding="utf-8")))
        state = read_state(sweep / record.folder) if record.state == "running" else None
        if state is not None:  # a job that was interrupted could not say so itself
            record = replace(record, state=state.state, error=state.error or "")
        records.append(record)
    return records
