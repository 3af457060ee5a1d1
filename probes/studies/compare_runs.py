"""Do the probes of two runs differ? Paired differences of their scores on the same test rows, task by task."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from probes.analysis import LayerTable, matrices_of, paired_score_difference, result_rows
from probes.files import write_json
from probes.metrics import MAIN_METRIC, UNITS, Predictions
from probes.report import FilesOnly, SavedRun, report_run, write_report
from probes.values import LayerProfile, Result, RunNames

_log = logging.getLogger(__name__)

STUDY = "compare_runs"
_NOT_OF_INTEREST = ("paths.", "hydra.", "logger.", "trainer.")
"""Beginnings of config keys that do not describe what was measured."""
_LONGEST_LABEL = 40  # characters


@dataclass(frozen=True)
class RunComparison:
    """What a comparison of runs has found.

    Attributes:
        labels: Short names of the runs, the first of which the others are compared with.
        rows: Rows of `results.csv`.
        left_out: Tasks that only some runs have.
        output_dir: Where everything is written.
    """

    labels: tuple[str, ...]
    rows: tuple[Result, ...]
    left_out: tuple[str, ...]
    output_dir: Path


def compare_runs(
    runs: Sequence[SavedRun],
    output_dir: Path,
    *,
    labels: Sequence[str] | None = None,
    resamples: int = 1000,
    exchanges: int = 500,
    seed: int = 0,
) -> RunComparison:
    """Compare the first run with each of the others, and write tables, figures and report.

    `difference/<metric>` is the score of the other run minus that of the first, at every layer; p is corrected for all
    layers and tasks of one pair of runs. `difference_at_best_layers/<metric>` compares each run at the layer that its
    own validation rows chose.

    Args:
        runs: At least two, each with stored predictions.
        output_dir: Its folder is made if need be.
        labels: Short names of the runs, all different; by default what differs between their configs, or the names of
            their folders.
        resamples: Of the rows, for intervals.
        exchanges: Draws of the null, for p.
        seed: Of both.

    Raises:
        ValueError: Fewer than two runs, one without predictions, no common task, other test rows, or equal names.
        FileExistsError: The output folder holds something other than an earlier comparison.
    """
    if len(runs) < 2:
        raise ValueError(f"A comparison needs at least two runs; got {len(runs)}. Name two or more folders of runs.")
    for run in runs:
        if not run.predictions:
            raise ValueError(
                f"The run {run.path} has no predictions to compare. They are written by `study=probe`: run it again."
            )
    names = tuple(labels) if labels else labels_of(runs)
    if len(set(names)) < len(runs) or len(names) != len(runs):
        raise ValueError(f"{len(runs)} runs need as many different names; got {', '.join(names)}. Set `--names`.")
    _refuse_other_contents(output_dir)
    common = [stem for stem in runs[0].predictions if all(stem in run.predictions for run in runs)]
    if not common:
        tasks = "; ".join(f"{name}: {', '.join(run.predictions)}" for name, run in zip(names, runs, strict=True))
        raise ValueError(f"The runs have no task in common ({tasks}). Compare runs on the same suite.")
    left_out = tuple(dict.fromkeys(stem for run in runs for stem in run.predictions if stem not in common))
    if left_out:
        _log.warning("Only some of the runs have the tasks %s, which are left out.", ", ".join(left_out))
    settings: dict[str, Any] = {"resamples": resamples, "exchanges": exchanges, "seed": seed}
    rows: list[Result] = []
    for name, run in zip(names[1:], runs[1:], strict=True):
        role = name if len(runs) > 2 else ""
        table = LayerTable()
        table.add(_differences(runs[0], run, common, role=role, settings=settings))
        clusters = {row.task: row.cluster for row in runs[0].rows}
        suite = next((row.suite for row in runs[0].rows), "")
        run_names = RunNames(study=STUDY, backbone=name, reference=names[0], suite=suite, clusters=clusters)
        rows += result_rows(table.findings().profiles, run_names)
    rows += _own_scores(names, runs, {runs[0].predictions[stem].task for stem in common})
    _make_folder(output_dir)
    write_json(output_dir / "provenance.json", _provenance(names, runs, left_out))
    report_run(output_dir, results=rows, matrices=matrices_of(rows), best_layers={}, logger=FilesOnly())
    write_report(output_dir)
    return RunComparison(names, tuple(rows), left_out, output_dir)


def labels_of(runs: Sequence[SavedRun]) -> tuple[str, ...]:
    """A short name for each run: the options and keys by which their command lines differ, if these are few and short.

    Otherwise the names of their folders, which are numbered where they are the same.
    """
    configs = [dict(_flat(run.config)) for run in runs]
    options = dict.fromkeys(name for run in runs for name in run.choices if f"{name}." not in _NOT_OF_INTEREST)
    differing = [name for name in options if len({run.choices.get(name) for run in runs}) > 1]
    typed = dict.fromkeys(key for run in runs for key in run.overrides if not key.startswith(_NOT_OF_INTEREST))
    keys = [key for key in typed if key not in options and len({str(config.get(key)) for config in configs}) > 1]
    named = [
        ", ".join([f"{name}={run.choices.get(name)}" for name in differing] + [f"{key}={own.get(key)}" for key in keys])
        for run, own in zip(runs, configs, strict=True)
    ]
    folders = [run.path.resolve().name for run in runs]
    for candidates in (named, folders):
        if len(set(candidates)) == len(runs) and all(0 < len(name) <= _LONGEST_LABEL for name in candidates):
            return tuple(candidates)
    return tuple(f"{number}: {folder[-_LONGEST_LABEL:]}" for number, folder in enumerate(folders, start=1))


def config_differences(runs: Sequence[SavedRun]) -> dict[str, list[Any]]:
    """Config key → its value in each run, for the keys whose values differ, except paths, loggers and trainers."""
    configs = [dict(_flat(run.config)) for run in runs]
    keys = dict.fromkeys(key for config in configs for key in config if not key.startswith(_NOT_OF_INTEREST))
    values = {key: [config.get(key) for config in configs] for key in keys}
    return {key: own for key, own in values.items() if len(set(map(str, own))) > 1}


def _make_folder(folder: Path) -> None:
    """Make the folder of a comparison; what an earlier comparison left in it is deleted.

    Raises:
        FileExistsError: It holds something else.
    """
    _refuse_other_contents(folder)
    for name in ("figures", "layer_by_task"):
        shutil.rmtree(folder / name, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)


def _refuse_other_contents(folder: Path) -> None:
    record = folder / "provenance.json"
    if not folder.is_dir() or not any(folder.iterdir()):
        return
    if not (record.is_file() and f'"study": "{STUDY}"' in record.read_text(encoding="utf-8")):
        raise FileExistsError(f"'{folder}' holds something other than a comparison. Choose another `--output`.")


def _differences(
    first: SavedRun, second: SavedRun, stems: Iterable[str], *, role: str, settings: Mapping[str, Any]
) -> Iterator[LayerProfile]:
    for stem in stems:
        a, b = first.predictions[stem], second.predictions[stem]
        metric = MAIN_METRIC[a.kind]
        estimates = paired_score_difference(a, b, **settings)
        common: dict[str, Any] = {"unit": UNITS[metric], "task": a.task, "reading": a.reading, "role": role}
        yield LayerProfile(quantity=f"difference/{metric}", layers=a.layers, estimates=estimates, **common)
        best = [_at_best_layer(run, own) for run, own in ((first, a), (second, b))]
        if best[0] is not None and best[1] is not None:
            layers = " and ".join(str(run.best_layers[a.task].layer) for run in (first, second))
            at_best = paired_score_difference(best[0], best[1], **settings)
            at_best = replace(at_best, remarks=(f"layers {layers}",))
            quantity = f"difference_at_best_layers/{metric}"
            yield LayerProfile(quantity=quantity, layers=(None,), estimates=at_best, **common)


def _at_best_layer(run: SavedRun, predictions: Predictions) -> Predictions | None:
    """Predictions at the layer that the run's validation rows chose, which is named 0; `None` if it is not known."""
    best = run.best_layers.get(predictions.task)
    primary = run.matrices[0].reading if run.matrices else None
    if best is None or best.layer not in predictions.layers or predictions.reading != primary:
        return None
    place = [predictions.layers.index(best.layer)]
    return replace(
        predictions,
        layers=(0,),
        predicted=predictions.predicted[place],
        training_errors=predictions.training_errors[:, place] if len(predictions.training_errors) else np.empty((0, 0)),
    )


def _own_scores(names: Sequence[str], runs: Sequence[SavedRun], tasks: set[str]) -> Iterator[Result]:
    """The main scores of each run, with the run's name as their role."""
    for name, run in zip(names, runs, strict=True):
        for row in run.rows:
            is_score = row.metric in MAIN_METRIC.values() and row.split == "test" and not row.control and row.probe
            if is_score and not row.role and row.task in tasks and row.layer is not None:
                yield replace(row, study=STUDY, role=name)


def _provenance(names: Sequence[str], runs: Sequence[SavedRun], left_out: Sequence[str]) -> dict[str, Any]:
    return {
        "study": STUDY,
        "command": ["probes", "compare", *(str(run.path) for run in runs)],
        "runs": {name: str(run.path) for name, run in zip(names, runs, strict=True)},
        "fingerprints": [run.provenance.get("backbone_fingerprint") for run in runs],
        "config_differences": config_differences(runs),
        "left_out": list(left_out),
        "tasks": runs[0].provenance.get("tasks", {}),
        "versions": runs[0].provenance.get("versions", {}),
    }


def _flat(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of a config with their dotted keys; lists are leaves."""
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield from _flat(value, f"{prefix}{key}.")
    else:
        yield prefix.removesuffix("."), node
