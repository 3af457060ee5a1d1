"""Every command and piece of Python in the README is run, on fewer rows or a tiny backbone where it takes long."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from probes.cli import check_overrides

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
COMMANDS = [line.split("#")[0].strip() for line in re.findall(r"^python train\.py.*$", README, flags=re.MULTILINE)]
WANTS_A_HUB = {"backbone=hub", "suite=glue", "suite=hub"}


def overrides_of(command: str) -> list[str]:
    return [word for word in shlex.split(command)[2:] if "=" in word]


def folder_of_rows(place: Path) -> Path:
    folder = place / "rows" / "color"
    folder.mkdir(parents=True)
    for split in ("train", "validation", "test"):
        rows = [f'{{"inputs": "{split} {i}: it is {c}", "targets": "{c}"}}' for i in range(20) for c in ("red", "blue")]
        (folder / f"{split}.jsonl").write_text("\n".join(rows))
    return folder.parent


def test_the_readme_has_commands_and_python():
    assert len(COMMANDS) >= 9
    assert len(re.findall(r"^```python$", README, flags=re.MULTILINE)) == 2


@pytest.mark.parametrize("command", COMMANDS)
def test_every_override_of_the_readme_exists(command: str):
    check_overrides(overrides_of(command))


def table_of_rows(place: Path) -> None:
    rows = [f'"It is {i}, and {word}.",{stars}' for i in range(30) for stars, word in ((1, "bad"), (5, "good"))]
    (place / "reviews.csv").write_text("\n".join(["body,stars", *rows]))


@pytest.mark.slow
@pytest.mark.parametrize("command", [c for c in COMMANDS if not WANTS_A_HUB.intersection(c.split())])
def test_every_command_of_the_readme_runs(command: str, tmp_path):
    words = shlex.split(command)[2:]
    rows = folder_of_rows(tmp_path)
    table_of_rows(tmp_path)
    words = [word.replace("suite.path=DIR", f"suite.path={rows}") for word in words]
    shows = "--help" in words
    if not shows:
        named = any(word.startswith(("backbone=", "backbone.layers")) or word == "experiment=quick" for word in words)
        words += [] if named else ["backbone=tiny"]
        words += (
            [] if any(word.startswith(("suite", "experiment=")) for word in words) else ["suite.tasks=[tense,topic]"]
        )
        words += ["++suite.max_rows=40", "probe.max_epochs=2", "logger=csv"]
        if "experiment=full_battery" in words:
            words += ["suite.tasks=[topic]"]
        if "experiment=layer_by_layer" in words:
            words += ["tuning.max_steps=2", "tuning.generate_rows=0", "study.maps.layers=1"]
    (tmp_path / "my_probes.py").write_text(
        re.findall(r"```python\n(# my_probes\.py.*?)```", README, flags=re.DOTALL)[0]
    )
    done = subprocess.run(
        [sys.executable, str(ROOT / "train.py"), *words],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert shows or list(tmp_path.rglob("results.csv"))


@pytest.mark.slow
def test_the_python_of_the_readme_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    code = re.findall(r"```python\n(import torch.*?)```", README, flags=re.DOTALL)[0]
    exec(compile(code, "README.md", "exec"), {})
    assert (tmp_path / "tense.safetensors").exists()
    assert "macro_f1" in capsys.readouterr().out
