"""What a run was made of and what it cost: `provenance.json`."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_PACKAGES = ("probes", "torch", "transformers", "lightning", "torchmetrics", "hydra-core", "wandb", "datasets", "peft")


class Provenance:
    """Collects facts and seconds per stage while a study runs, and writes them at every stage's end.

    Args:
        path: The file, in the run's output folder.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._facts: dict[str, Any] = {
            "command": sys.argv,
            "python": platform.python_version(),
            "machine": platform.platform(),
            "versions": _versions(),
            "commit": _commit(),
        }
        self._seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add what the context takes to a stage's seconds."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._seconds[name] = self._seconds.get(name, 0.0) + time.perf_counter() - start
            self.record({})

    def record(self, facts: Mapping[str, Any]) -> None:
        """Add facts and write the file."""
        self._facts |= facts
        content = self._facts | {"seconds": {name: round(s, 3) for name, s in self._seconds.items()}}
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.write_text(json.dumps(content, indent=1, default=str) + "\n")


def _versions() -> dict[str, str]:
    installed = {}
    for package in _PACKAGES:
        try:
            installed[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            installed[package] = "not installed"
    return installed


def _commit() -> str | None:
    """Commit of the checkout the package lies in, `+dirty` if files differ from it; `None` for an installed wheel."""
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True, timeout=10)
        status = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return head.stdout.strip() + ("+dirty" if status.stdout.strip() else "")
