"""Arrays are computed once for each key, and again where their file is damaged."""

from __future__ import annotations

import numpy as np
import pytest

from probes.interventions import KeptArrays, kept_arrays


def counted(value: float):
    calls = []

    def compute():
        calls.append(value)
        return {"a": np.array([value, np.nan]), "b": np.arange(3)}

    return compute, calls


def test_arrays_are_computed_once_for_each_key(tmp_path):
    compute, calls = counted(1.5)
    for kept in (KeptArrays(tmp_path, {"model": "m"}), KeptArrays(tmp_path, {"model": "m"})):
        found = kept.get({"layer": 1}, compute)
        np.testing.assert_array_equal(found["a"], [1.5, np.nan])
        np.testing.assert_array_equal(found["b"], [0, 1, 2])
    assert len(calls) == 1
    kept.get({"layer": 2}, compute)
    KeptArrays(tmp_path, {"model": "other"}).get({"layer": 1}, compute)
    assert len(calls) == 3


def test_a_damaged_file_is_set_aside_and_computed_again(tmp_path, caplog):
    compute, calls = counted(2.0)
    kept = KeptArrays(tmp_path, {})
    kept.get({"layer": 1}, compute)
    (path,) = tmp_path.glob("*.arrays")
    content = bytearray(path.read_bytes())
    content[-20] ^= 1
    path.write_bytes(bytes(content))
    np.testing.assert_array_equal(kept.get({"layer": 1}, compute)["a"], [2.0, np.nan])
    assert len(calls) == 2
    assert "computed again" in caplog.text


def test_a_computation_that_fails_leaves_nothing(tmp_path):
    def fail():
        raise RuntimeError

    with pytest.raises(RuntimeError):
        KeptArrays(tmp_path, {}).get({}, fail)
    assert not list(tmp_path.iterdir())


def test_arrays_of_another_version_of_a_library_are_computed_again(tmp_path, monkeypatch):
    compute, calls = counted(2.0)
    KeptArrays(tmp_path, {}).get({"layer": 1}, compute)
    monkeypatch.setattr("transformers.__version__", "99.0")
    KeptArrays(tmp_path, {}).get({"layer": 1}, compute)
    assert len(calls) == 2


def test_a_folder_that_cannot_be_written_costs_a_warning_and_not_the_arrays(tmp_path, monkeypatch, caplog):
    def refused(*_, **__):
        raise PermissionError("no place here")

    monkeypatch.setattr(kept_arrays, "write_resume_point", refused)
    compute, calls = counted(2.0)
    assert KeptArrays(tmp_path, {}).get({"layer": 1}, compute)["b"].tolist() == [0, 1, 2]
    assert "no place here. The run goes on" in caplog.text
    assert len(calls) == 1
