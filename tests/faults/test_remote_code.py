"""Code that comes with weights is not run unless asked for, and then it is said whose code runs, before it does."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
from tiny_models import tiny_model

from probes.backbones import FrozenBackbone
from probes.backbones.loading import Source, load_pretrained
from probes.backbones.tiny import byte_tokenizer


@pytest.fixture
def repository(tmp_path, monkeypatch) -> Path:
    """A model folder whose code writes `ran` and fails."""
    folder = tmp_path / "model"
    tiny_model("llama").save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.Config", "AutoModel": "own.Model"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "own.py").write_text(
        f"from pathlib import Path\nPath({str(tmp_path / 'ran')!r}).touch()\nraise RuntimeError('remote code ran')\n"
    )
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    return folder


def test_code_beside_the_weights_is_not_run_by_default(repository, tmp_path, caplog):
    with pytest.raises(ValueError, match="trust_remote_code"):
        FrozenBackbone.load(path=str(repository))
    assert not (tmp_path / "ran").exists()
    assert [record for record in caplog.records if record.name.startswith("probes")] == []


def test_when_it_is_run_a_warning_before_says_whose_it_is(repository, tmp_path):
    seen = []

    class Watching(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            seen.append((record.levelname, record.getMessage(), (tmp_path / "ran").exists()))

    handler = Watching()
    logging.getLogger("probes").addHandler(handler)
    with pytest.raises(RuntimeError, match="remote code ran"):
        FrozenBackbone.load(path=str(repository), trust_remote_code=True)
    logging.getLogger("probes").removeHandler(handler)
    ((level, message, had_run),) = seen
    assert (level, had_run) == ("WARNING", False)
    assert f"Python code of the folder '{repository}' runs on this machine with all your permissions" in message


def test_code_of_the_hub_is_named_by_its_repository(caplog):
    with pytest.raises(OSError, match="offline mode"):
        load_pretrained(Source(name="somebody/model", trust_remote_code=True))
    assert "the repository 'somebody/model' on the Hub" in caplog.text
    assert "backbone.revision" in caplog.text
