from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from similarity_samples import LAST, a_layer_by_layer

from probes.analysis import SegmentedQuantity
from probes.analysis.bands.segments import Segments
from probes.report import FilesOnly, report_layer_by_layer
from probes.report.csv_files import read_layer_by_layer, write_layer_by_layer
from probes.report.run_report import report_bands
from probes.values import Estimates, LayerByLayer, LayerProfile, Reading

MEAN = Reading("decoder", "residual", "mean")


class Remembering(FilesOnly):
    def __init__(self) -> None:
        self.logged: list[tuple[str, list[str], Path]] = []

    def log_layer_by_layer(self, name: str, matrices: Sequence[LayerByLayer], picture: Path) -> None:
        self.logged.append((name, [matrix.task for matrix in matrices], picture))


@pytest.fixture(scope="module")
def reported(tmp_path_factory):
    folder, logger = tmp_path_factory.mktemp("out"), Remembering()
    values = np.array([[0.1, 1 / 3, np.nan], [-0.25, 1.0, 0.5]])
    tasks = [a_layer_by_layer(task, x_layers=(0, 1), y_layers=(0, 1, "final"), values=values) for task in ("a", "b")]
    matrices = [*tasks, *(replace(own, reading=MEAN, values=own.values / 2) for own in tasks)]
    matrices.append(a_layer_by_layer("a", quantity="cka/biased"))
    return folder, logger, matrices, report_layer_by_layer(folder, matrices, logger=logger, primary=LAST)


def test_each_task_is_a_file_with_all_digits(reported):
    folder, _, matrices, _ = reported
    files = {str(path.relative_to(folder / "layer_by_layer")) for path in folder.rglob("*.csv")}
    mean = "cka@decoder.residual.mean"
    assert files == {"cka/a.csv", "cka/b.csv", f"{mean}/a.csv", f"{mean}/b.csv", "cka_biased/a.csv"}
    for name, matrix in (("cka/a", matrices[0]), (f"{mean}/b", matrices[3])):
        with (folder / f"layer_by_layer/{name}.csv").open() as file:
            rows = list(csv.reader(file))
        assert rows[0] == ["layer", "0", "1", "final"]
        assert [row[0] for row in rows[1:]] == ["0", "1"]
        np.testing.assert_array_equal([[float(value) for value in row[1:]] for row in rows[1:]], matrix.values)


def test_a_matrix_reads_back_with_its_names_unit_reading_and_n(reported):
    folder, _, matrices, _ = reported
    paths = ("cka/a", "cka/b", "cka@decoder.residual.mean/a", "cka@decoder.residual.mean/b", "cka_biased/a")
    for path, matrix in zip(paths, matrices, strict=True):
        found = read_layer_by_layer(folder / f"layer_by_layer/{path}.csv")
        np.testing.assert_array_equal(found.values, matrix.values)
        assert vars(found) | {"values": 0} == vars(matrix) | {"values": 0}


def test_a_matrix_without_its_names_is_refused(reported, tmp_path):
    path = write_layer_by_layer(reported[2][0], tmp_path)
    path.with_suffix(".json").unlink()
    with pytest.raises(ValueError, match=r"a\.csv cannot be read without a\.json, which names its quantity"):
        read_layer_by_layer(path)


def test_each_quantity_and_reading_is_one_picture_and_one_hand_over(reported):
    folder, logger, _, pictures = reported
    names = ["cka", "cka@decoder.residual.mean", "cka_biased"]
    assert pictures == [folder / f"figures/layer_by_layer_{name}.png" for name in names]
    assert sorted((folder / "figures").iterdir()) == sorted(pictures)
    handed = [("cka", ["a", "b"]), ("cka@decoder.residual.mean", ["a", "b"]), ("cka/biased", ["a"])]
    assert logger.logged == [(*own, picture) for own, picture in zip(handed, pictures, strict=True)]


def test_nothing_to_report_leaves_nothing(tmp_path):
    assert report_layer_by_layer(tmp_path, [], logger=FilesOnly(), primary=LAST) == []
    assert not list(tmp_path.iterdir())


def test_a_quantity_without_any_value_has_no_picture_of_its_bands(tmp_path):
    estimates = Estimates(np.full(2, np.nan), 10)
    profiles = [
        LayerProfile(quantity="q", unit="u", estimates=estimates, layers=(0, 1), task=task, reading=LAST)
        for task in ("a", "b")
    ]
    segments = Segments(
        statistic="spread",
        layers=(),
        left_out=(0, 1),
        profile=np.empty(0),
        boundaries=(),
        p=np.nan,
        bands=(),
        note="no value",
    )
    quantity = SegmentedQuantity(tuple(profiles), segments)
    assert report_bands(tmp_path, [quantity], logger=FilesOnly(), primary=LAST) == []
    assert not list(tmp_path.iterdir())
