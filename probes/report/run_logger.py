"""What a study needs of a logger, and the one that tracks nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Protocol

from probes.values import LayerByLayer, LayerByTask


class RunLogger(Protocol):
    """Where numbers are logged besides files. Everything but `run` is called inside `run`'s block."""

    def run(self, config: Mapping[str, Any], output_dir: Path) -> AbstractContextManager[object]:
        """Open a run for one study job; leaving the block ends it, as failed where an exception left it."""
        ...

    def log_matrix(self, matrix: LayerByTask, heatmap: Path, *, primary: bool) -> None:
        """Log one quantity: its numbers and its picture."""
        ...

    def log_layer_by_layer(self, name: str, matrices: Sequence[LayerByLayer], picture: Path) -> None:
        """Log one quantity between the layers of two backbones, a matrix a task."""
        ...

    def log_picture(self, name: str, picture: Path) -> None:
        """Log a picture of its own."""
        ...

    def summarize(self, scalars: Mapping[str, float | int | str]) -> None:
        """Set summary values; a name set before is replaced."""
        ...

    def log_artifacts(self, paths: Iterable[Path]) -> None:
        """Offer files and folders for upload; the logger decides whether it expects them."""
        ...


class FilesOnly:
    """The logger of `logger=csv`: the output folder is all there is."""

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
