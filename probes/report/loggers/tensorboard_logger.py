"""Writes each study job as one TensorBoard run."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matplotlib.image import imread

from probes.report.loggers.run_logger import (
    PAIR_COLUMNS,
    TABLE_COLUMNS,
    Cell,
    flat_config,
    layer_curves,
    logged_name,
    pair_rows,
    require_packages,
    table_rows,
)
from probes.runs.masking import mask_secrets
from probes.values import LayerByLayer, LayerByTask

if TYPE_CHECKING:
    from torch.utils.tensorboard.writer import SummaryWriter


class TensorBoardRunLogger:
    """Writes a study job as one TensorBoard run, which `tensorboard --logdir outputs` shows beside the others.

    Each quantity becomes a table (the text `layer_by_task/<quantity>`), a picture (`heatmap/<quantity>`) and one curve
    per task (`<quantity>/<task>`), whose steps are the layers. The config and the summary are the hyperparameters and
    metrics of the tab HPARAMS. Files are not uploaded, since they are in the output folder already.
    """

    def __init__(self, *, folder: str | Path | None = None, curves: bool = True) -> None:
        """Keep the settings; nothing is written before `run`.

        Args:
            folder: For the event file; `None` for `tensorboard` in the output folder.
            curves: Whether to write curves over layers.

        Raises:
            ModuleNotFoundError: TensorBoard is not installed.
        """
        require_packages("logger=tensorboard", "tensorboard", ["tensorboard"])
        self._folder = None if folder is None else Path(folder).expanduser()
        self._curves = curves
        self._config: dict[str, Any] = {}
        self._summary: dict[str, float | int | str] = {}
        self._writer: SummaryWriter | None = None

    @contextmanager
    def run(self, config: Mapping[str, Any], output_dir: Path) -> Iterator[TensorBoardRunLogger]:
        """Open the event file; leaving the block writes config and summary, and closes it."""
        from torch.utils.tensorboard.writer import SummaryWriter

        self._config, self._summary = flat_config(mask_secrets(config)), {}
        self._writer = SummaryWriter(str(self._folder or output_dir / "tensorboard"))
        status = "failed"
        try:
            yield self
            status = "finished"
        finally:
            self._write_hyperparameters(status)
            self._writer.close()
            self._writer = None

    def log_matrix(self, matrix: LayerByTask, heatmap: Path, *, primary: bool) -> None:
        """Write one quantity as a table, a picture and curves over layers."""
        name = logged_name(matrix, primary=primary)
        self._open_writer.add_text(f"layer_by_task/{name}", _markdown(TABLE_COLUMNS, table_rows(matrix)))
        self.log_picture(f"heatmap/{name}", heatmap)
        for task, points in layer_curves(matrix).items() if self._curves else ():
            for layer, value in points:
                self._open_writer.add_scalar(f"{name}/{task}", value, global_step=layer)

    def log_layer_by_layer(self, name: str, matrices: Sequence[LayerByLayer], picture: Path) -> None:
        """Write one quantity between layers as a table of all tasks and a picture."""
        self._open_writer.add_text(f"layer_by_layer/{name}", _markdown(PAIR_COLUMNS, pair_rows(matrices)))
        self.log_picture(f"heatmap/layer_by_layer/{name}", picture)

    def log_picture(self, name: str, picture: Path) -> None:
        """Write a picture, pixel by pixel as in its file."""
        pixels = (imread(picture) * 255).round().astype("uint8")  # (height, width, channels)
        self._open_writer.add_image(name, pixels, dataformats="HWC")

    def summarize(self, scalars: Mapping[str, float | int | str]) -> None:
        """Set summary values, which are written when the run ends."""
        self._summary |= scalars

    def log_artifacts(self, paths: Iterable[Path]) -> None:
        """Do nothing: an event file holds no files, and the output folder has them."""

    @property
    def _open_writer(self) -> SummaryWriter:
        if self._writer is None:
            raise RuntimeError("Nothing can be logged outside the block that `run` opens.")
        return self._writer

    def _write_hyperparameters(self, status: str) -> None:
        """Write config and summary as one entry of the tab HPARAMS, in the same event file as everything else.

        `SummaryWriter.add_hparams` would open a second file, which TensorBoard shows as another run.
        """
        from torch.utils.tensorboard.summary import hparams

        words = {key: value for key, value in self._summary.items() if isinstance(value, str)}
        numbers = {key: float(value) for key, value in self._summary.items() if not isinstance(value, str)}
        metrics = {key: value for key, value in numbers.items() if not math.isnan(value)}
        values = {key: _as_hyperparameter(value) for key, value in self._config.items()}
        writer = self._open_writer
        for summary in hparams({**values, **words, "status": status}, metrics):
            writer._get_file_writer().add_summary(summary)
        for key, value in metrics.items():
            writer.add_scalar(key, value, global_step=0)


def _as_hyperparameter(value: Any) -> str | float | bool:
    """A value of a kind that HPARAMS shows: numbers and booleans as they are, all else as text."""
    return value if isinstance(value, bool | int | float | str) else str(value)


def _markdown(columns: Sequence[str], rows: Iterable[Sequence[Cell]]) -> str:
    """A table in Markdown; a missing value is an empty cell, and numbers keep all digits."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join("" if cell is None else str(cell) for cell in line) + " |" for line in lines)
