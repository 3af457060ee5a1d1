"""MLflow runs in a local database and on a server on this machine, read back through the server."""

from __future__ import annotations

import importlib.util
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from report_samples import MEAN, report_two_quantities
from similarity_samples import a_layer_by_layer

from probes.report import MlflowRunLogger
from probes.report.loggers.servers import server_responds

if any(importlib.util.find_spec(name) is None for name in ("mlflow", "sqlalchemy", "alembic")):
    pytest.skip("needs the extra mlflow", allow_module_level=True)

MISSING = [name for name in ("flask", "flask_cors", "graphene", "huey") if importlib.util.find_spec(name) is None]
SECONDS_TO_START = 90
NAMES = ("probe/accuracy", f"probe/accuracy@{MEAN}")
CONFIG = {"seed": 0, "suite": {"name": "starter", "tasks": ["sst2"]}, "long": "x" * 7000, "token": "abcdefgh"} | {
    f"key{i}": i for i in range(120)
}
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # MLflow's own database connections
]


def report(logger: MlflowRunLogger, folder: Path) -> SimpleNamespace:
    """Log two quantities, a matrix between layers and a summary in one run."""
    (folder / "probes").mkdir(parents=True)
    (folder / "probes/sst2.safetensors").write_bytes(b"weights")
    with logger.run(CONFIG, folder):
        matrices, heatmaps = report_two_quantities(folder, logger)
        logger.log_layer_by_layer("cka", [a_layer_by_layer("sst2"), a_layer_by_layer("trec")], heatmaps[0])
        logger.log_picture("bands/cka", heatmaps[1])
    return SimpleNamespace(run_id=logger.run_id, matrices=matrices, heatmaps=heatmaps, folder=folder)


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    folder = tmp_path_factory.mktemp("local")
    logger = MlflowRunLogger(folder=folder / "mlflow", group="sweep", name="a run", tags={"x": "y"}, notes="why")
    return report(logger, folder / "out")


@pytest.fixture(scope="module")
def server(local: SimpleNamespace) -> Iterator[str]:
    """A server over the database of the local run, which ends with the tests, or after three minutes by itself."""
    if MISSING:
        pytest.skip(f"MLflow's server needs {', '.join(MISSING)}")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    mlflow = local.folder.parent / "mlflow"
    store = ["--backend-store-uri", f"sqlite:///{mlflow}/mlflow.db", "--artifacts-destination", str(mlflow / "served")]
    arguments = ["server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1", *store]
    bounded = f"import os, sys, threading; threading.Timer(180, os._exit, [1]).start(); sys.argv[1:] = {arguments!r}; "
    with (mlflow / "server.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", bounded + "from mlflow.cli import cli; cli()"],
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
        )
    url = f"http://127.0.0.1:{port}"
    try:
        end = time.monotonic() + SECONDS_TO_START
        while not server_responds(f"{url}/health", 5):
            assert process.poll() is None, (mlflow / "server.log").read_text()
            assert time.monotonic() < end, (mlflow / "server.log").read_text()
            time.sleep(0.3)
        yield url
    finally:
        os.killpg(process.pid, 9)
        process.wait(20)


@pytest.fixture(scope="module")
def remote(server: str, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    logger = MlflowRunLogger(tracking_uri=server, experiment="elsewhere", upload_artifacts=True)
    return report(logger, tmp_path_factory.mktemp("remote") / "out")


def artifacts(client: Any, run_id: str, folder: Path) -> dict[str, Path]:
    """All artifacts of a run, downloaded through the client: path in the run → file."""
    root = Path(client.download_artifacts(run_id, "", str(folder)))
    return {str(path.relative_to(root)): path for path in root.rglob("*") if path.is_file()}


def test_local_and_remote_runs_hold_the_same_once_per_quantity(
    local: SimpleNamespace, remote: SimpleNamespace, server: str, tmp_path: Path
) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(server)
    for number, logged in enumerate((local, remote)):
        run = client.get_run(logged.run_id)
        assert run.info.status == "FINISHED"
        assert (logged.folder / "mlflow_run_id.txt").read_text().strip() == logged.run_id

        params = run.data.params
        assert (params["seed"], params["suite.name"], params["suite.tasks"]) == ("0", "starter", "['sst2']")
        assert (len(params), len(params["long"])) == (125, 6000)
        assert params["token"] == "***"
        tags = run.data.tags
        assert (tags["best_layer/sst2"], tags["best_layers/topic"]) == ("final", "0")
        assert (run.data.metrics["mean/accuracy"], run.data.metrics["best_layer/topic"]) == (0.5, 0.0)
        assert "mean/unknown" not in run.data.metrics

        for name, matrix in zip(NAMES, logged.matrices, strict=True):
            for column, task in enumerate(matrix.tasks):
                points = client.get_metric_history(logged.run_id, f"{name.replace('@', '.')}/{task}")
                known = [(step, v) for step, v in enumerate(matrix.values[:, column]) if not np.isnan(v)]
                assert sorted((point.step, point.value) for point in points) == known

        (tmp_path / str(number)).mkdir()
        # The local run's artifacts are files, which the client reads without the server.
        files = artifacts(client, logged.run_id, tmp_path / str(number))
        pictures = {"heatmap/probe/accuracy.png", f"heatmap/probe/accuracy@{MEAN}.png"}
        tables = {*(f"layer_by_task/{name}.json" for name in NAMES), "layer_by_layer/cka.json"}
        others = {"heatmap/layer_by_layer/accuracy.png", f"bands/accuracy@{MEAN}.png"}
        uploaded = {"results.csv", "best_layers.csv", "layer_by_task/accuracy.csv", "probes/sst2.safetensors"}
        uploaded |= {f"layer_by_task/accuracy@{MEAN}.csv"}
        assert set(files) == pictures | tables | others | (uploaded if logged is remote else set())
        assert files["heatmap/probe/accuracy.png"].read_bytes() == logged.heatmaps[0].read_bytes()

        for name, matrix in zip(NAMES, logged.matrices, strict=True):
            listed = json.loads(run.data.tags["mlflow.loggedArtifacts"])
            assert {"path": f"layer_by_task/{name}.json", "type": "table"} in listed
            table = json.loads(files[f"layer_by_task/{name}.json"].read_text())
            assert table["columns"][:4] == ["layer", "task", "value", "ci_low"]
            values = {(layer, task): value for layer, task, value, *_ in table["data"]}
            for row, layer in enumerate(matrix.layers):
                for column, task in enumerate(matrix.tasks):
                    expected = matrix.values[row, column]
                    assert values[str(layer), task] == (None if np.isnan(expected) else expected)


def test_the_local_run_has_its_name_group_tags_and_notes(local: SimpleNamespace, server: str) -> None:
    from mlflow import MlflowClient

    run = MlflowClient(server).get_run(local.run_id)
    tags = {key: run.data.tags[key] for key in ("group", "job_type", "x", "mlflow.note.content")}
    assert tags == {"group": "sweep", "job_type": "probe", "x": "y", "mlflow.note.content": "why"}
    assert run.info.run_name == "a run"
    assert MlflowClient(server).get_experiment(run.info.experiment_id).name == "probes"


def test_a_run_that_raises_is_failed_and_can_be_continued(local: SimpleNamespace, tmp_path: Path) -> None:
    from mlflow import MlflowClient

    folder = local.folder.parent / "mlflow"
    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    picture = local.heatmaps[0]
    failing = MlflowRunLogger(folder=folder)

    def log_and_fail() -> None:
        with failing.run({"seed": 0}, tmp_path):
            failing.log_layer_by_layer("cka", [a_layer_by_layer()], picture)
            raise KeyError("lost")

    with pytest.raises(KeyError, match="lost"):
        log_and_fail()
    run_id = str(failing.run_id)
    assert client.get_run(run_id).info.status == "FAILED"
    again = MlflowRunLogger(folder=folder, run_id=run_id, curves=False)
    with again.run({"seed": 1}, tmp_path):
        assert client.get_run(run_id).info.status == "RUNNING"
        again.summarize({"mean/accuracy": 0.75})
        for name in ("cka", "gain"):
            again.log_layer_by_layer(name, [a_layer_by_layer()], picture)
    run = client.get_run(run_id)
    assert (run.info.status, run.data.metrics["mean/accuracy"], run.data.params["seed"]) == ("FINISHED", 0.75, "0")
    tables = [{"path": f"layer_by_layer/{name}.json", "type": "table"} for name in ("cka", "gain")]
    assert json.loads(run.data.tags["mlflow.loggedArtifacts"]) == tables


def test_a_server_that_does_not_respond_is_refused_at_once_with_the_key_to_set(tmp_path: Path) -> None:
    logger = MlflowRunLogger(tracking_uri="http://127.0.0.1:1")
    start = time.monotonic()
    with pytest.raises(ConnectionError, match=r"127\.0\.0\.1:1 does not respond.*`logger\.tracking_uri`"):
        logger.run({}, tmp_path).__enter__()
    assert time.monotonic() - start < 15
