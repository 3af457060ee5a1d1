"""A finished run read back from its folder: tables for pandas, matrices, figures, probes, predictions, config.

The folder alone is enough: neither cache nor model are needed.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from probes.analysis import matrices_of
from probes.files import file_name
from probes.metrics import MAIN_METRIC, Predictions
from probes.report.attributions import AttributedText, read_attributions
from probes.report.csv_files import read_best_layers, read_layer_by_layer, read_results, read_task_maps
from probes.report.predictions_file import read_predictions
from probes.runs.run_folder import read_state
from probes.values import BestLayers, LayerByLayer, LayerByTask, Reading, Result

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from probes.report.figures.task_maps import TaskMap
    from probes.training import LayerProbes

_FIRST_QUANTITY = {"layer_by_layer": "tuning_gain", "compare": "reference_cka"}
"""Kind of study → the quantity that answers its question."""


@dataclass(frozen=True)
class SavedRun:
    """What a run left in its folder.

    Attributes:
        path: The folder.
        rows: The rows of `results.csv`.
        best_layers: Task → its layers chosen on validation.
        config: The whole config of the run.
        provenance: Versions, fingerprints, numbers of rows, seconds, the certificate of the activations.
    """

    path: Path
    rows: tuple[Result, ...]
    best_layers: Mapping[str, BestLayers]
    config: Mapping[str, Any]
    provenance: Mapping[str, Any]

    @property
    def state(self) -> str:
        """`running`, `finished`, `failed` or `interrupted`; empty if the folder does not say."""
        state = read_state(self.path)
        return "" if state is None else state.state

    @property
    def kind(self) -> str:
        """The kind of study, such as `layer_by_layer`: by its class, or by its name where the config names no class."""
        target = (self.config.get("study") or {}).get("_target_", "").rpartition(".")[2]
        if target:
            return re.sub(r"(?<!^)(?=[A-Z])", "_", target.removesuffix("Study")).lower()
        return self.rows[0].study if self.rows else ""

    @property
    def results(self) -> pd.DataFrame:
        """`results.csv` as a table of pandas; what does not apply is missing."""
        import pandas as pd

        columns = [field.name for field in fields(Result)]
        return pd.DataFrame([[getattr(row, column) for column in columns] for row in self.rows], columns=columns)

    @cached_property
    def matrices(self) -> tuple[LayerByTask, ...]:
        """All layer × task matrices, those of the run's first reading first."""
        found = matrices_of(self.rows)
        primary = found[0].reading if found else None
        return tuple(sorted(found, key=lambda matrix: matrix.reading != primary))

    @property
    def quantities(self) -> tuple[str, ...]:
        """Names of the quantities that have a matrix."""
        return tuple(dict.fromkeys(matrix.quantity for matrix in self.matrices))

    def matrix(self, quantity: str, reading: Reading | str | None = None) -> LayerByTask:
        """One quantity as a layer × task matrix.

        Args:
            quantity: Its name, with or without `probe/`.
            reading: `stack.site.pooling`; the run's first one by default.

        Raises:
            KeyError: The run has no such quantity; the message lists those it has.
        """
        for matrix in self.matrices:
            named = quantity in (matrix.quantity, matrix.quantity.removeprefix("probe/"))
            if named and reading in (None, matrix.reading, str(matrix.reading)):
                return matrix
        there = ", ".join(name.removeprefix("probe/") for name in self.quantities)
        raise KeyError(
            f"The run {self.path} has no quantity '{quantity}' of {reading or 'any reading'}. It has {there}."
        )

    def heatmap(self, quantity: str, reading: Reading | str | None = None, *, by_column: bool = False) -> Figure:
        """The heatmap of a quantity, as the run drew it.

        Args:
            quantity: As in `matrix`.
            reading: As in `matrix`.
            by_column: Colour each task by its own range.
        """
        from probes.report.figures.heatmap import heatmap
        from probes.report.run_report import limits_key, shared_limits

        matrix = self.matrix(quantity, reading)
        roles = {row.role for row in self.rows}
        limits = shared_limits(self.matrices, roles)[limits_key(matrix)]
        return heatmap(matrix, best_layers=self._marks(matrix), limits=limits, by_column=by_column)

    def profile(self, task: str, quantity: str | None = None, reading: Reading | str | None = None) -> Figure:
        """A quantity of one task over layers, with its interval and its values by chance.

        Args:
            task: Name of the task.
            quantity: By default the main metric of the probes, or the run's first quantity.
            reading: As in `matrix`.

        Raises:
            KeyError: The run has no such quantity or task.
        """
        from probes.report.figures.profiles import profiles

        matrix = self.matrix(self.main_quantity if quantity is None else quantity, reading)
        return profiles(matrix.of_tasks([task]), best_layers=self._marks(matrix))

    @cached_property
    def choices(self) -> Mapping[str, str]:
        """Config group → the option that was chosen, such as `probe` → `linear`; empty without Hydra."""
        hydra = _read_mapping(self.path / ".hydra" / "hydra.yaml").get("hydra", {})
        chosen = hydra.get("runtime", {}).get("choices", {})
        return {group: option for group, option in chosen.items() if not group.startswith("hydra/")}

    @cached_property
    def overrides(self) -> Mapping[str, str]:
        """Config key → the value that the command line gave it."""
        path = self.path / ".hydra" / "overrides.yaml"
        typed = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else []
        return {key.lstrip("+~"): value for key, _, value in (text.partition("=") for text in typed or [])}

    @property
    def main_quantity(self) -> str:
        """The quantity to look at first: the study's own, else the probes' main metric, else the first with a matrix.

        Raises:
            KeyError: The run has no matrix.
        """
        if not self.quantities:
            raise KeyError(f"The run {self.path} has no layer × task matrix.")
        of_study = _FIRST_QUANTITY.get(self.kind)
        if of_study in self.quantities:
            return of_study
        main = [name for name in self.quantities if name.removeprefix("probe/") in MAIN_METRIC.values()]
        return (main or self.quantities)[0]

    @cached_property
    def predictions(self) -> Mapping[str, Predictions]:
        """File name → predictions for the test rows, one for each task and reading."""
        return {path.stem: read_predictions(path) for path in sorted((self.path / "predictions").glob("*.npz"))}

    def probes(self, task: str, *, allow: Sequence[str] = ()) -> LayerProbes:
        """The probes of a task, one for each layer.

        Args:
            task: Name of the task.
            allow: Modules whose architectures may be imported, as in `load_probes`.

        Raises:
            FileNotFoundError: The run has none.
        """
        from probes.training import load_probes

        return load_probes(self.path / "probes" / f"{file_name(task)}.safetensors", allow=allow)

    @cached_property
    def layer_by_layer(self) -> tuple[LayerByLayer, ...]:
        """The matrices of every layer of one model against every layer of another."""
        return tuple(map(read_layer_by_layer, sorted((self.path / "layer_by_layer").glob("*/*.csv"))))

    @cached_property
    def maps(self) -> Mapping[str, list[TaskMap]]:
        """Role of a model → maps of its activations in the plane, one for each layer."""
        return {path.stem: read_task_maps(path) for path in sorted((self.path / "maps").glob("*.csv"))}

    @cached_property
    def tables(self) -> Mapping[str, Mapping[str, list[list[str]]]]:
        """Name of a table → file name of a task → its rows as texts, the heading first."""
        tables: dict[str, dict[str, list[list[str]]]] = {}
        for path in sorted((self.path / "tables").glob("*/*.csv")):
            with path.open(newline="", encoding="utf-8") as file:
                tables.setdefault(path.parent.name, {})[path.stem] = list(csv.reader(file))
        return tables

    @cached_property
    def attributions(self) -> Mapping[str, list[AttributedText]]:
        """File name of a task → its prompts, word by word, with what each word contributes to the answer."""
        paths = sorted((self.path / "attributions").glob("*.csv"))
        return {path.stem: read_attributions(path) for path in paths}

    def _marks(self, matrix: LayerByTask) -> Mapping[str, BestLayers] | None:
        """Best layers are those of the primary reading."""
        return self.best_layers if matrix.reading == self.matrices[0].reading else None


def read_run(path: str | Path) -> SavedRun:
    """Read the folder of a run.

    Args:
        path: The folder, which a run names in its last line (`everything: …`).

    Raises:
        FileNotFoundError: It holds no `results.csv`.
        ValueError: A file in it is damaged, or was written by another version.
    """
    path = Path(path)
    if not (path / "results.csv").is_file():
        raise FileNotFoundError(f"'{path}' is no run's folder: it holds no results.csv. Pass the folder a run names.")
    best_layers = path / "best_layers.csv"
    return SavedRun(
        path=path,
        rows=tuple(read_results(path / "results.csv")),
        best_layers={best.task: best for best in read_best_layers(best_layers)} if best_layers.is_file() else {},
        config=_read_mapping(path / "config.yaml"),
        provenance=_read_mapping(path / "provenance.json"),
    )


def _read_mapping(path: Path) -> Mapping[str, Any]:
    """A JSON or YAML file; empty if there is none.

    Raises:
        ValueError: It cannot be read.
    """
    if not path.is_file():
        return {}
    text = path.read_text(encoding="utf-8")
    try:
        return (json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)) or {}
    except (json.JSONDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
