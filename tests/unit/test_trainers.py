"""Trainers of Lightning on machines of a cluster."""

from __future__ import annotations

import os
import warnings

from probes.trainers import default_trainer, quiet_lightning


def test_the_hint_to_use_srun_is_not_repeated_by_each_fit(tmp_path, monkeypatch):
    (tmp_path / "srun").write_text("#!/bin/sh\n")
    (tmp_path / "srun").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        with quiet_lightning():
            default_trainer()
    assert [str(warning.message) for warning in told if "srun" in str(warning.message)] == []
    with warnings.catch_warnings(record=True) as told:  # the control: a trainer outside gives it
        warnings.simplefilter("always")
        default_trainer()
    assert any("srun" in str(warning.message) for warning in told)
