from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import wandb

from probes.report.loggers.wandb_download import download_run


class Artifact(SimpleNamespace):
    def download(self, root: str) -> str:
        (Path(root)).mkdir(parents=True)
        (Path(root) / "results.csv").write_text(self.content)
        return root


def served(monkeypatch, *artifacts: Artifact) -> None:
    """Let W&B's API know one run, with these artifacts."""

    class Api:
        def run(self, name: str) -> SimpleNamespace:
            if name != "entity/project/abc":
                raise ValueError(f"Could not find run {name}")
            return SimpleNamespace(id="abc", logged_artifacts=lambda: list(artifacts))

    monkeypatch.setattr(wandb, "Api", Api)


def test_the_last_files_of_a_run_are_downloaded(monkeypatch, tmp_path):
    kinds = (("probes", "old"), ("probes", "new"), ("run_table", "a table"))
    served(monkeypatch, *(Artifact(type=kind, content=content) for kind, content in kinds))
    folder = download_run("entity/project/abc", tmp_path)
    assert (folder, (folder / "results.csv").read_text()) == (tmp_path / "abc", "new")


def test_a_run_that_uploaded_nothing_is_named_with_the_key_to_set(monkeypatch, tmp_path):
    served(monkeypatch, Artifact(type="run_table", content=""))
    with pytest.raises(FileNotFoundError, match=r"has no files. Set `logger.upload_artifacts=true`"):
        download_run("entity/project/abc", tmp_path)
    with pytest.raises(FileNotFoundError, match="W&B has no run 'entity/project/nothing'"):
        download_run("entity/project/nothing", tmp_path)
