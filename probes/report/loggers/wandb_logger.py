"""Logs each study job as one W&B run."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import wandb
import wandb.apis.public  # noqa: F401  # every run imports it when it starts, which is slow once torch is loaded
from wandb.errors import Error as WandbError

from probes.files import write_text
from probes.report.loggers.run_logger import PAIR_COLUMNS, TABLE_COLUMNS, logged_name, pair_rows, plain_path, table_rows
from probes.report.loggers.wandb_mode import MODES, Mode, choose_mode
from probes.runs.masking import mask_secrets
from probes.values import LayerByLayer, LayerByTask

RUN_ID_FILE = "wandb_run_id.txt"

_FOLDERS = {"WANDB_DATA_DIR": "data", "WANDB_CACHE_DIR": "cache"}
"""Environment variables of W&B → folder within that of its runs."""
_SECONDS_TO_START = 15.0  # with mode=auto; the default of W&B is 90

_log = logging.getLogger(__name__)


class WandbRunLogger:
    """Logs a study job as one W&B run, which is finished when the job ends.

    Each quantity becomes one table, `layer_by_task/<quantity>`, and one picture, `heatmap/<quantity>` (with
    `@<reading>` if the reading is not the run's first), under the same step. W&B writes its files to the output
    folder, and the run's id is written there to `wandb_run_id.txt`.

    Attributes:
        run_id: Before the run, the id of the run to resume; then the id of the run. `None` if nothing is logged.
    """

    def __init__(
        self,
        *,
        project: str = "probes",
        entity: str | None = None,
        group: str | None = None,
        name: str | None = None,
        tags: Sequence[str] = (),
        job_type: str = "probe",
        notes: str | None = None,
        mode: Mode = "auto",
        run_id: str | None = None,
        upload_artifacts: bool = False,
    ) -> None:
        """Keep the settings; no server is contacted and nothing is written before `run`.

        Args:
            project: W&B project.
            entity: W&B user or team; `None` is the default of the account.
            group: W&B shows the runs of one group together, such as those of a sweep.
            name: Name of the run; `None` lets W&B invent one.
            tags: Labels by which runs can be filtered.
            job_type: Kind of study.
            notes: Free text.
            mode: `online`, `offline`, `disabled`, or `auto`, which `choose_mode` turns into one of them.
            run_id: Continue this run instead of starting one.
            upload_artifacts: Whether to upload probes and CSV files as an artifact.

        Raises:
            ValueError: `mode` is unknown.
        """
        if mode not in MODES:
            raise ValueError(f"Unknown W&B mode '{mode}'. Set `logger.mode` to one of {', '.join(MODES)}.")
        self.run_id = run_id
        self._mode: Mode = mode
        self._upload_artifacts = upload_artifacts
        self._run: wandb.Run | None = None
        self._output_dir = Path()
        self._arguments = {
            "project": project,
            "entity": entity,
            "group": group,
            "name": name,
            "tags": tuple(tags) or None,
            "job_type": job_type,
            "notes": notes,
        }

    @contextmanager
    def run(self, config: Mapping[str, Any], output_dir: Path) -> Iterator[WandbRunLogger]:
        """Open the run; leaving the block finishes it, with exit code 1 if an exception is raised."""
        self._output_dir = output_dir
        mode, reason = choose_mode(self._mode)
        with _folders_of_its_own(output_dir / "wandb"):
            if mode != "disabled":
                self._start(mode, reason, mask_secrets(config))
            exit_code = 1
            try:
                yield self
                exit_code = 0
            finally:
                if self._run is not None:
                    self._run.finish(exit_code=exit_code)
                    self._run = None

    def log_matrix(self, matrix: LayerByTask, heatmap: Path, *, primary: bool) -> None:
        """Log one quantity as a table with one row per cell, and its heatmap; numbers keep all digits, NaN is null."""
        if self._run is None:
            return
        name = logged_name(matrix, primary=primary)
        rows: Any = table_rows(matrix)  # W&B's stubs expect their own type of rows
        table = wandb.Table(columns=list(TABLE_COLUMNS), data=rows)
        self._run.log({f"layer_by_task/{name}": table, f"heatmap/{name}": wandb.Image(str(heatmap))})

    def log_layer_by_layer(self, name: str, matrices: Sequence[LayerByLayer], picture: Path) -> None:
        """Log one table, `layer_by_layer/<name>`, one row per task and pair of layers, and one picture of all tasks."""
        if self._run is None:
            return
        name = plain_path(name)
        rows: Any = pair_rows(matrices)
        table = wandb.Table(columns=list(PAIR_COLUMNS), data=rows)
        self._run.log({f"layer_by_layer/{name}": table, f"heatmap/layer_by_layer/{name}": wandb.Image(str(picture))})

    def log_picture(self, name: str, picture: Path) -> None:
        """Log a picture that belongs to no matrix."""
        if self._run is not None:
            self._run.log({plain_path(name): wandb.Image(str(picture))})

    def summarize(self, scalars: Mapping[str, float | int | str]) -> None:
        """Set summary values; NaN is left out."""
        if self._run is not None:
            self._run.summary.update({key: value for key, value in scalars.items() if not _is_nan(value)})

    def log_artifacts(self, paths: Iterable[Path]) -> None:
        """Upload files and folders as one artifact of type `probes`, if `upload_artifacts` is set."""
        if self._run is None or not self._upload_artifacts:
            return
        artifact = wandb.Artifact(f"probes-{self.run_id}", type="probes")
        for path in paths:
            if path.is_dir():
                artifact.add_dir(str(path), name=path.name)
            else:
                artifact.add_file(str(path), name=path.name)
        self._run.log_artifact(artifact)

    def _start(self, mode: Mode, reason: str, config: dict[str, Any]) -> None:
        self._output_dir.mkdir(parents=True, exist_ok=True)
        try:
            self._run = self._open(mode, config)
        except WandbError as error:
            if mode != "online" or self._mode != "auto":
                raise
            reason = f"W&B refused: {error}"
            self._run = self._open("offline", config)
        self.run_id = self._run.id
        write_text(self._output_dir / RUN_ID_FILE, f"{self.run_id}\n")
        _report_place(self._run, reason)

    def _open(self, mode: Mode, config: dict[str, Any]) -> wandb.Run:
        # Metadata would send the command line with its secrets, and the names of user, machine and folders.
        settings: dict[str, Any] = {"silent": True, "console": "off", "save_code": False}
        settings |= {"x_disable_stats": True, "x_disable_meta": True}
        if self._mode == "auto":
            settings["init_timeout"] = _SECONDS_TO_START
        if mode == "online" and self.run_id is not None:
            settings["resume"] = "allow"  # offline, `id` alone suffices: `wandb sync` appends to the run of that id
        return wandb.init(
            **mask_secrets(self._arguments),
            config=config,
            id=self.run_id,
            dir=str(self._output_dir),
            mode=mode,  # pyright: ignore[reportArgumentType]  # `auto` has been resolved
            reinit="create_new",  # a run that somebody else has open in this process stays untouched
            settings=wandb.Settings(**settings),
        )


@contextmanager
def _folders_of_its_own(folder: Path) -> Iterator[None]:
    """Within the context, W&B copies artifacts to a folder of the run, not of the user, whose home may be read-only.

    Folders that the user has chosen by W&B's environment variables are kept.
    """
    new = {name: str(folder.absolute() / part) for name, part in _FOLDERS.items() if name not in os.environ}
    os.environ.update(new)
    try:
        yield
    finally:
        for name in new:
            os.environ.pop(name, None)


def _report_place(run: wandb.Run, reason: str) -> None:
    """Log where the run is: its URL, or how to upload it and why it is offline."""
    if run.offline:
        folder = Path(run.dir).parent.absolute()
        because = f" because {reason}" if reason else ""
        _log.warning("W&B keeps this run offline%s. Upload it with: wandb sync %s", because, folder)
    else:
        _log.info("W&B run: %s", run.url)


def _is_nan(value: object) -> bool:
    return isinstance(value, float) and math.isnan(value)
