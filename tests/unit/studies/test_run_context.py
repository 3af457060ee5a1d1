from __future__ import annotations

import inspect
import json

import pytest

from probes import studies
from probes.studies.run_context import Provenance


def read(path):
    return json.loads(path.read_text())


def test_stages_add_up_and_facts_are_kept_even_when_a_stage_fails(tmp_path):
    provenance = Provenance(tmp_path / "out" / "provenance.json")
    with provenance.stage("probes"):
        pass
    provenance.record({"forward_passes": 3})
    with pytest.raises(RuntimeError), provenance.stage("probes"):
        raise RuntimeError
    with provenance.stage("report"):
        pass
    facts = read(tmp_path / "out" / "provenance.json")
    assert facts["forward_passes"] == 3
    assert set(facts["seconds"]) == {"probes", "report"}


def test_the_versions_of_what_decides_numbers_are_recorded(tmp_path):
    import torch
    import transformers

    provenance = Provenance(tmp_path / "provenance.json")
    provenance.record({})
    versions = read(tmp_path / "provenance.json")["versions"]
    assert versions["torch"] == torch.__version__
    assert versions["transformers"] == transformers.__version__


def test_every_study_logs_its_objective():
    classes = [getattr(studies, name) for name in studies.__all__ if name.endswith("Study")]
    assert len(classes) == 13
    assert [cls.__name__ for cls in classes if "context.log_objective(" not in inspect.getsource(cls)] == []
