from __future__ import annotations

import csv
import math
from dataclasses import fields, replace

import numpy as np
import pytest
from report_samples import MEAN, a_matrix

from probes.report import read_results, write_layer_by_task, write_results
from probes.values import RESULT_COLUMNS, Result

AWKWARD = [
    Result(task="sst2", layer=0, value=0.1 + 0.2, ci_low=1 / 3, ci_high=5e-324, penalty=1e-4, seed=0, n=0),
    Result(task='a, "b"\nc', layer="final", value=-0.0, p=1e-300, note="μ – naïve"),
    Result(value=np.float64(2) / 3, null_mean=float("inf")),
]


class TestResults:
    def test_are_read_back_as_the_same_numbers_of_the_same_types(self, tmp_path):
        back = read_results(write_results(AWKWARD, tmp_path / "results.csv"))
        assert back == AWKWARD
        for was, now in zip(AWKWARD, back, strict=True):
            for f in fields(Result):
                assert isinstance(getattr(was, f.name), type(getattr(now, f.name)))
        assert math.copysign(1, back[1].value) == -1

    def test_keep_nan_and_none_apart(self, tmp_path):
        (back,) = read_results(write_results([Result(ci_low=float("nan"))], tmp_path / "results.csv"))
        assert math.isnan(back.value)
        assert back.ci_low is not None
        assert math.isnan(back.ci_low)
        assert (back.ci_high, back.layer, back.seed, back.note) == (None, None, None, "")

    def test_have_the_documented_columns_in_this_order(self, tmp_path):
        lines = write_results(AWKWARD[:1], tmp_path / "results.csv").read_text().splitlines()
        assert lines[0] == ",".join(RESULT_COLUMNS)
        assert "0.30000000000000004" in lines[1]

    def test_with_other_columns_are_refused(self, tmp_path):
        (tmp_path / "other.csv").write_text("task,value\n")
        with pytest.raises(ValueError, match=r"other\.csv must have the columns study, role.*got task, value"):
            read_results(tmp_path / "other.csv")

    def test_with_a_word_instead_of_a_number_raise_an_error_that_names_the_line(self, tmp_path):
        path = write_results([replace(AWKWARD[0], seed=7)] * 2, tmp_path / "results.csv")
        path.write_text(path.read_text().replace(",7,", ",seven,"))
        with pytest.raises(ValueError, match=r"line 2: .*seven"):
            read_results(path)


class TestLayerByTask:
    def test_rows_are_layers_and_columns_tasks(self, tmp_path):
        values = np.array([[0.1, np.nan], [1 / 3, 0.4]])
        matrix = a_matrix(layers=(0, "final"), tasks=("sst2", "trec"), values=values)
        with write_layer_by_task(matrix, tmp_path).open() as file:
            header, *rows = csv.reader(file)
        assert header == ["layer", "sst2", "trec"]
        assert [row[0] for row in rows] == ["0", "final"]
        np.testing.assert_array_equal([[float(v) for v in row[1:]] for row in rows], values)

    @pytest.mark.parametrize(
        ("quantity", "primary", "name"),
        [
            ("probe/accuracy", True, "accuracy.csv"),
            ("probe/selectivity", True, "selectivity.csv"),
            ("label_cka", True, "label_cka.csv"),
            ("specificity/label_cka", True, "specificity_label_cka.csv"),
            ("probe/accuracy", False, "accuracy@decoder.residual.mean.csv"),
        ],
    )
    def test_the_file_is_named_by_quantity_and_reading(self, tmp_path, quantity, primary, name):
        assert write_layer_by_task(a_matrix(quantity, reading=MEAN), tmp_path, primary=primary) == tmp_path / name


def test_a_failure_while_writing_keeps_the_old_file_and_leaves_no_other(tmp_path):
    path = write_results(AWKWARD, tmp_path / "results.csv")
    before = path.read_bytes()

    def results():
        yield AWKWARD[0]
        raise RuntimeError("lost")

    with pytest.raises(RuntimeError, match="lost"):
        write_results(results(), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
