"""What every study is given besides its parts: logger, seed, folders, config, and the record of the run."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from probes.files import write_json
from probes.report import RunLogger
from probes.runs.masking import mask_secrets

_PACKAGES = ("probes", "torch", "transformers", "lightning", "torchmetrics", "hydra-core", "wandb", "datasets", "peft")


@dataclass(frozen=True, kw_only=True)
class RunContext:
    """The circumstances of one run.

    Attributes:
        logger: Where numbers are logged besides files.
        seed: Decides initialisation, order, folds and control labels; never the data (that is `suite.seed`).
        cache_dir: Activations and tuned models are kept under it, shared by all runs.
        output_dir: Everything the run leaves.
        config: The whole config, for the record.
        provenance: Collects facts and seconds for `provenance.json`.
    """

    logger: RunLogger
    seed: int
    cache_dir: Path
    output_dir: Path
    config: Mapping[str, Any]
    provenance: Provenance

    @classmethod
    def of(
        cls, *, logger: RunLogger, seed: int, cache_dir: Path, output_dir: Path, config: Mapping[str, Any] | None = None
    ) -> RunContext:
        """A context with a new provenance file in the output folder."""
        provenance = Provenance(output_dir / "provenance.json")
        return cls(
            logger=logger,
            seed=seed,
            cache_dir=cache_dir,
            output_dir=output_dir,
            config=config or {},
            provenance=provenance,
        )

    def logged(self) -> AbstractContextManager[object]:
        """Open the logger's run, its config masked; leaving the block ends it, as failed where an exception left it."""
        return self.logger.run(mask_secrets(self.config), self.output_dir)

    def log_objective(self, value: float) -> float:
        """Log the number that a study returns as `objective`, by which a tracker's sweeps are steered, and return it.

        Every study calls it once, inside the block that `logged` opens.
        """
        self.logger.summarize({"objective": value})
        return value

    def stage(self, name: str) -> AbstractContextManager[None]:
        """Add what the block takes to the seconds of a stage in `provenance.json`."""
        return self.provenance.stage(name)


class Provenance:
    """Facts and seconds per stage of a run, written to `provenance.json` whenever they change.

    Args:
        path: The file, in the run's output folder.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._facts: dict[str, Any] = {
            "command": mask_secrets(sys.argv),
            "python": platform.python_version(),
            "machine": platform.platform(),
            "versions": _versions(),
            "commit": _commit(),
        }
        self._seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add what the block takes to a stage's seconds."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._seconds[name] = self._seconds.get(name, 0.0) + time.perf_counter() - start
            self.record({})

    def record(self, facts: Mapping[str, Any]) -> None:
        """Add facts and write the file."""
        self._facts |= facts
        write_json(self._path, self._facts | {"seconds": {name: round(s, 3) for name, s in self._seconds.items()}})


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
