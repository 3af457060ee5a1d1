"""What a study expects of a logger, and the logger that leaves everything to the files in the output folder."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Protocol

from probes.values import LayerByLayer, LayerByTask


class RunLogger(Protocol):
    """Where results are logged besides files. All methods but `run` are called inside the block that `run` opens."""

    def run(self, config: Mapping[str, Any], output_dir: Path) -> AbstractContextManager[object]:
        """Open a run for one study job; leaving the block ends the run, as failed if an exception is raised."""
        ...

    def log_matrix(self, matrix: LayerByTask, heatmap: Path, *, primary: bool) -> None:
        """Log one quantity: its numbers and its heatmap; `primary` if it has the run's first reading."""
        ...

    def log_layer_by_layer(self, name: str, matrices: Sequence[LayerByLayer], picture: Path) -> None:
        """Log one quantity between the layers of two backbones: one matrix per task, and one picture of all."""
        ...

    def log_picture(self, name: str, picture: Path) -> None:
        """Log a picture that belongs to no matrix."""
        ...

    def summarize(self, scalars: Mapping[str, float | int | str]) -> None:
        """Set summary values; they replace earlier values of the same name."""
        ...

    def log_artifacts(self, paths: Iterable[Path]) -> None:
        """Offer files and folders for upload; the logger decides whether to upload them."""
        ...


class FilesOnly:
    """The logger of `logger=csv`: it logs nothing, since the output folder has everything."""

    def run(self, config: Mapping[str, Any], output_dir: Path) -> AbstractContextManager[object]:  # noqa: ARG002
        """Open nothing."""
        return nullcontext()

    def log_matrix(self, matrix: LayerByTask, heatmap: Path, *, primary: bool) -> None:
        """Do nothing."""

    def log_layer_by_layer(self, name: str, matrices: Sequence[LayerByLayer], picture: Path) -> None:
        """Do nothing."""

    def log_picture(self, name: str, picture: Path) -> None:
        """Do nothing."""

    def summarize(self, scalars: Mapping[str, float | int | str]) -> None:
        """Do nothing."""

    def log_artifacts(self, paths: Iterable[Path]) -> None:
        """Do nothing."""
