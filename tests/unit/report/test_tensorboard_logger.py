from __future__ import annotations

import importlib.util
import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from report_samples import LAST, MEAN, a_matrix, report_two_quantities
from similarity_samples import a_layer_by_layer

from probes.report import TensorBoardRunLogger
from probes.report.pictures import save_png

if importlib.util.find_spec("tensorboard") is None:
    pytest.skip("needs the package tensorboard", allow_module_level=True)

from matplotlib.figure import Figure
from matplotlib.image import imread
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import plugin_data_pb2
from tensorboard.util import tensor_util

CONFIG = {
    "seed": 0,
    "suite": {"name": "starter", "tasks": ["sst2", "trec"]},
    "notes": None,
    "hub": {"token": "abcdefgh"},
}


def read(folder: Path) -> EventAccumulator:
    """The events of the only file in a folder, with no image or scalar left out."""
    assert len(list(folder.glob("events.out.tfevents.*"))) == 1
    events = EventAccumulator(str(folder), size_guidance={"images": 0, "scalars": 0, "tensors": 0})
    return events.Reload()


def text(events: EventAccumulator, tag: str) -> list[list[str]]:
    """The cells of a table in Markdown, the header first."""
    (event,) = events.Tensors(f"{tag}/text_summary")
    lines = tensor_util.make_ndarray(event.tensor_proto)[0].decode().split("\n")
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in (lines[0], *lines[2:])]


def hparams_of(events: EventAccumulator) -> dict[str, Any]:
    content = events.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    values = plugin_data_pb2.HParamsPluginData.FromString(content).session_start_info.hparams
    return {key: getattr(value, value.WhichOneof("kind")) for key, value in values.items()}


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    folder = tmp_path_factory.mktemp("out")
    logger = TensorBoardRunLogger()
    with logger.run(CONFIG, folder):
        matrices, heatmaps = report_two_quantities(folder, logger)
    return SimpleNamespace(matrices=matrices, heatmaps=heatmaps, events=read(folder / "tensorboard"))


NAMES = ("probe/accuracy", f"probe/accuracy@{MEAN}")


def test_each_quantity_is_one_table_with_the_same_numbers(reported: SimpleNamespace) -> None:
    tags = [tag for tag in reported.events.Tags()["tensors"] if tag.startswith("layer_by_task")]
    assert tags == [f"layer_by_task/{name}/text_summary" for name in NAMES]
    for name, matrix in zip(NAMES, reported.matrices, strict=True):
        header, *rows = text(reported.events, f"layer_by_task/{name}")
        assert header == ["layer", "task", "value", "ci_low", "ci_high", "null_mean", "p", "p_cell", "note"]
        assert len(rows) == matrix.values.size
        for layer, task, value, low, *_, note in rows:
            cell = [str(own) for own in matrix.layers].index(layer), matrix.tasks.index(task)
            assert value == ("" if np.isnan(matrix.values[cell]) else str(matrix.values[cell]))
            assert low == ("" if np.isnan(matrix.ci_low[cell]) else str(matrix.ci_low[cell]))
            assert note == matrix.notes.get((matrix.layers[cell[0]], task), "")


def test_each_quantity_is_one_curve_per_task_over_the_layers(reported: SimpleNamespace) -> None:
    for name, matrix in zip(NAMES, reported.matrices, strict=True):
        for column, task in enumerate(matrix.tasks):
            points = [(event.step, event.value) for event in reported.events.Scalars(f"{name}/{task}")]
            known = [(step, v) for step, v in enumerate(matrix.values[:, column]) if not np.isnan(v)]
            assert [step for step, _ in points] == [step for step, _ in known]
            np.testing.assert_allclose([v for _, v in points], [v for _, v in known], rtol=1e-6)  # float32


def test_each_heatmap_is_one_picture_with_the_pixels_of_its_file(reported: SimpleNamespace) -> None:
    assert set(reported.events.Tags()["images"]) == {f"heatmap/{name}" for name in NAMES}
    for name, file in zip(NAMES, reported.heatmaps, strict=True):
        (event,) = reported.events.Images(f"heatmap/{name}")
        np.testing.assert_array_equal(imread(io.BytesIO(event.encoded_image_string), "png"), imread(file))


def test_config_and_summary_are_hyperparameters_and_metrics(reported: SimpleNamespace) -> None:
    found = hparams_of(reported.events)
    assert (found["seed"], found["suite.name"], found["suite.tasks"]) == (0.0, "starter", "['sst2', 'trec']")
    assert found["hub.token"] == "***"
    assert (found["status"], found["best_layer/sst2"], found["best_layers/sst2"]) == ("finished", "final", "final")
    scalars = set(reported.events.Tags()["scalars"])
    assert {"mean/accuracy", "best_layer/topic"} <= scalars
    assert "mean/unknown" not in scalars
    assert reported.events.Scalars("mean/accuracy")[0].value == 0.5


def test_a_matrix_between_layers_is_one_table_and_one_picture_in_the_folder_that_is_set(tmp_path: Path) -> None:
    matrices = [a_layer_by_layer(task) for task in ("sst2", "trec")]
    picture = save_png(Figure(), tmp_path / "picture.png")
    logger = TensorBoardRunLogger(folder=tmp_path / "events")
    with logger.run({}, tmp_path / "out"):
        logger.log_layer_by_layer("cka", matrices, picture)
        logger.log_picture("bands/cka", picture)
    events = read(tmp_path / "events")
    header, *rows = text(events, "layer_by_layer/cka")
    assert header == ["task", "x_layer", "y_layer", "value"]
    assert len(rows) == sum(matrix.values.size for matrix in matrices)
    assert set(events.Tags()["images"]) == {"heatmap/layer_by_layer/cka", "bands/cka"}


def test_an_exception_passes_through_and_marks_the_run_failed(tmp_path: Path) -> None:
    with pytest.raises(KeyError, match="lost"), TensorBoardRunLogger().run({}, tmp_path):
        raise KeyError("lost")
    assert hparams_of(read(tmp_path / "tensorboard"))["status"] == "failed"


def test_curves_can_be_left_out(tmp_path: Path) -> None:
    picture = save_png(Figure(), tmp_path / "picture.png")
    for curves in (True, False):
        logger = TensorBoardRunLogger(folder=tmp_path / str(curves), curves=curves)
        with logger.run({}, tmp_path):
            logger.log_matrix(a_matrix(reading=LAST), picture, primary=True)
        assert bool(read(tmp_path / str(curves)).Tags()["scalars"]) == curves
