"""Logs each study job as one MLflow run."""

from __future__ import annotations

import json
import logging
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from probes.files import write_text
from probes.locks import process_lock
from probes.report.loggers.run_logger import (
    PAIR_COLUMNS,
    TABLE_COLUMNS,
    Cell,
    flat_config,
    layer_curves,
    logged_name,
    pair_rows,
    plain_path,
    require_packages,
    table_rows,
)
from probes.report.loggers.servers import server_responds
from probes.runs.masking import mask_secrets, mask_text
from probes.values import LayerByLayer, LayerByTask

if TYPE_CHECKING:
    from mlflow import MlflowClient

RUN_ID_FILE = "mlflow_run_id.txt"

_SECONDS_TO_RESPOND = 10.0  # MLflow itself retries for minutes
_LONGEST_PARAM = 6000  # characters; MLflow refuses more
_BATCH = {"params": 100, "metrics": 1000}  # entries of one request; MLflow refuses more

_TABLES_TAG = "mlflow.loggedArtifacts"  # where MLflow's page looks for tables

_log = logging.getLogger(__name__)


class MlflowRunLogger:
    """Logs a study job as one MLflow run, which is finished or failed when the job ends.

    Each quantity becomes a table (the artifact `layer_by_task/<quantity>.json`, which MLflow shows side by side for
    several runs), a picture (in the folder `heatmap`) and one metric per task (`<quantity>/<task>`), whose steps are
    the layers. The config becomes parameters with dotted names. The run's id is written to `mlflow_run_id.txt` in the
    output folder.

    Attributes:
        run_id: Before the run, the id of the run to resume; then the id of the run.
    """

    def __init__(
        self,
        *,
        tracking_uri: str | None = None,
        folder: str | Path = "outputs/mlflow",
        experiment: str = "probes",
        group: str | None = None,
        name: str | None = None,
        tags: Mapping[str, str] | None = None,
        job_type: str = "probe",
        notes: str | None = None,
        run_id: str | None = None,
        curves: bool = True,
        upload_artifacts: bool = False,
    ) -> None:
        """Keep the settings; no server is contacted and nothing is written before `run`.

        Args:
            tracking_uri: A server (`http://…`) or a database (`sqlite:///…`). `None` for the environment variable
                `MLFLOW_TRACKING_URI`, or else the database `mlflow.db` in `folder`.
            folder: For database and artifacts if there is no tracking URI.
            experiment: Name of the MLflow experiment; it is made if it does not exist.
            group: Tag `group` of the run, such as a sweep.
            name: Name of the run; `None` lets MLflow invent one.
            tags: Further tags.
            job_type: Kind of study, as tag `job_type`.
            notes: Free text, the run's description.
            run_id: Continue this run instead of starting one.
            curves: Whether to log curves over layers.
            upload_artifacts: Whether to upload probes and CSV files.

        Raises:
            ModuleNotFoundError: MLflow, or what it needs for a database, is not installed.
        """
        uri = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or None
        remote = uri is not None and uri.startswith(("http://", "https://"))
        require_packages("logger=mlflow", "mlflow", ["mlflow"] if remote else ["mlflow", "sqlalchemy", "alembic"])
        self.run_id = run_id
        self._uri, self._is_server = uri, remote
        self._folder = Path(folder).expanduser().absolute()
        self._experiment = experiment
        self._name = name
        self._tags = {**mask_secrets(tags or {}), "job_type": job_type} | ({} if group is None else {"group": group})
        self._notes = notes
        self._curves = curves
        self._upload_artifacts = upload_artifacts
        self._tables: list[dict[str, str]] = []
        self._client: MlflowClient | None = None

    @contextmanager
    def run(self, config: Mapping[str, Any], output_dir: Path) -> Iterator[MlflowRunLogger]:
        """Open the run; leaving the block ends it, as failed if an exception is raised.

        Raises:
            ConnectionError: The server does not respond.
        """
        self._client = self._connect()
        run_id = self._start(config)
        write_text(output_dir / RUN_ID_FILE, f"{run_id}\n")
        status = "FAILED"
        try:
            yield self
            status = "FINISHED"
        finally:
            self._client.set_terminated(run_id, status)
            self._client = None

    def log_matrix(self, matrix: LayerByTask, heatmap: Path, *, primary: bool) -> None:
        """Log one quantity as a table, a picture and curves over layers; numbers keep all digits, NaN is null."""
        name = logged_name(matrix, primary=primary)
        self._log_table(f"layer_by_task/{name}", TABLE_COLUMNS, table_rows(matrix))
        self.log_picture(f"heatmap/{name}", heatmap)
        if self._curves:
            curves = layer_curves(matrix)
            self._log_metrics([(f"{name}/{task}", value, layer) for task in curves for layer, value in curves[task]])

    def log_layer_by_layer(self, name: str, matrices: Sequence[LayerByLayer], picture: Path) -> None:
        """Log one quantity between layers as a table of all tasks and a picture."""
        name = plain_path(name)
        self._log_table(f"layer_by_layer/{name}", PAIR_COLUMNS, pair_rows(matrices))
        self.log_picture(f"heatmap/layer_by_layer/{name}", picture)

    def log_picture(self, name: str, picture: Path) -> None:
        """Log a picture in the folder that `name` says; MLflow names artifacts by their files."""
        client, run_id = self._open_run
        client.log_artifact(run_id, str(picture), artifact_path=str(PurePosixPath(plain_path(name)).parent))

    def summarize(self, scalars: Mapping[str, float | int | str]) -> None:
        """Log numbers as metrics and words as tags; NaN is left out."""
        client, run_id = self._open_run
        numbers = {key: float(value) for key, value in scalars.items() if not isinstance(value, str)}
        self._log_metrics([(key, value, 0) for key, value in numbers.items()])
        for key, value in scalars.items():
            if isinstance(value, str):
                client.set_tag(run_id, _allowed(key), value)

    def log_artifacts(self, paths: Iterable[Path]) -> None:
        """Upload files and folders, if `upload_artifacts` is set; `layer_by_task/*.csv` beside the tables."""
        client, run_id = self._open_run
        for path in paths if self._upload_artifacts else ():
            if path.is_dir():
                client.log_artifacts(run_id, str(path), artifact_path=path.name)
            else:
                folder = path.parent.name if path.parent.name == "layer_by_task" else None
                client.log_artifact(run_id, str(path), artifact_path=folder)

    @property
    def _open_run(self) -> tuple[MlflowClient, str]:
        if self._client is None or self.run_id is None:
            raise RuntimeError("Nothing can be logged outside the block that `run` opens.")
        return self._client, self.run_id

    def _connect(self) -> MlflowClient:
        from mlflow import MlflowClient

        if self._uri is None:
            with process_lock(self._folder / "mlflow.lock", what=f"the tables of '{self._folder}/mlflow.db'"):
                return MlflowClient(f"sqlite:///{self._folder / 'mlflow.db'}")
        if self._is_server and not server_responds(self._uri, _SECONDS_TO_RESPOND):
            raise ConnectionError(
                f"The MLflow server {mask_text(self._uri)} does not respond. Start it, set `logger.tracking_uri` (or "
                "the environment variable MLFLOW_TRACKING_URI) to another one, or unset both to log to `logger.folder`."
            )
        return MlflowClient(self._uri)

    def _start(self, config: Mapping[str, Any]) -> str:
        client = self._client
        if client is None:
            raise RuntimeError("There is no connection.")
        if self.run_id is not None:
            client.update_run(self.run_id, status="RUNNING")
            self._tables = json.loads(client.get_run(self.run_id).data.tags.get(_TABLES_TAG, "[]"))
        else:
            tags = self._tags | ({} if self._notes is None else {"mlflow.note.content": self._notes})
            run = client.create_run(self._experiment_id(client), run_name=self._name, tags=tags)
            self.run_id = str(run.info.run_id)
            self._log_params(client, self.run_id, config)
        where = self._uri or f"sqlite:///{self._folder / 'mlflow.db'}"
        _log.info("MLflow run %s of experiment '%s' at %s.", self.run_id, self._experiment, mask_text(where))
        return self.run_id

    def _experiment_id(self, client: MlflowClient) -> str:
        """The experiment's id; it is made if need be, perhaps by another run at this moment."""
        from mlflow.exceptions import MlflowException

        found = client.get_experiment_by_name(self._experiment)
        if found is None:
            location = (self._folder / "artifacts").as_uri() if self._uri is None else None
            try:
                return client.create_experiment(self._experiment, artifact_location=location)
            except MlflowException:
                found = client.get_experiment_by_name(self._experiment)
                if found is None:
                    raise
        return str(found.experiment_id)

    def _log_params(self, client: MlflowClient, run_id: str, config: Mapping[str, Any]) -> None:
        """The config as parameters, which MLflow does not let a continued run change."""
        from mlflow.entities import Param

        params = [
            Param(_allowed(key), str(value)[:_LONGEST_PARAM])
            for key, value in flat_config(mask_secrets(config)).items()
        ]
        for start in range(0, len(params), _BATCH["params"]):
            client.log_batch(run_id, params=params[start : start + _BATCH["params"]])

    def _log_metrics(self, points: Sequence[tuple[str, float, int]]) -> None:
        """Log points `(name, value, step)` in as few requests as MLflow allows; NaN is left out."""
        from mlflow.entities import Metric
        from mlflow.utils.time import get_current_time_millis

        client, run_id = self._open_run
        now = get_current_time_millis()
        metrics = [Metric(_allowed(name), value, now, step) for name, value, step in points if not math.isnan(value)]
        for start in range(0, len(metrics), _BATCH["metrics"]):
            client.log_batch(run_id, metrics=metrics[start : start + _BATCH["metrics"]])

    def _log_table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
        client, run_id = self._open_run
        file = f"{name}.json"
        client.log_dict(run_id, {"columns": list(columns), "data": rows}, file)  # `log_table` would round the numbers
        table = {"path": file, "type": "table"}
        if table not in self._tables:
            self._tables.append(table)
            client.set_tag(run_id, _TABLES_TAG, json.dumps(self._tables))


def _allowed(name: str) -> str:
    """A name with the characters that MLflow allows; `.` stands for others, as in `accuracy.decoder.residual.mean`."""
    return re.sub(r"[^\w\-./: ]", ".", plain_path(name), flags=re.ASCII)
