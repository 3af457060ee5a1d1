"""Every notebook runs from its first cell to its last, and is stored without outputs."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import nbformat
import pytest

NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_stored_without_outputs(path: Path):
    for cell in nbformat.read(path, as_version=4).cells:
        assert cell.cell_type == "markdown" or (cell.outputs == [] and cell.execution_count is None)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Proactor")
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path: Path, tmp_path: Path, monkeypatch):
    from nbclient import NotebookClient

    bin_of_python = str(Path(sys.executable).parent)
    monkeypatch.setenv("PATH", os.pathsep.join([bin_of_python, os.environ["PATH"]]))
    for folder in (path.parent / name for name in ("layer_by_layer_run",)):
        if folder.is_dir():
            shutil.copytree(folder, tmp_path / folder.name)
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert any("image/png" in output.get("data", {}) for output in outputs) or "heatmap" not in path.read_text()
    printed = "".join(output.get("text", "") for output in outputs)
    commands = [cell for cell in notebook.cells if cell.source.startswith("!probes ")]
    assert printed.count("report: ") == len(commands), printed  # the last lines of a command that ended well
