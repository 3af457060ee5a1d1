"""The order in which tasks are named changes no number."""

from __future__ import annotations

import csv
from pathlib import Path

from hydra import compose, initialize_config_dir

from probes.cli import CONFIG_DIR
from probes.run import run

TASKS = ("subject_number", "topic", "tense")


def rows_of_a_run(folder: Path, tasks: tuple[str, ...]) -> list[tuple[str, ...]]:
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        overrides = [
            "experiment=quick", f"suite.tasks=[{','.join(tasks)}]", "suite.max_rows=40", "backbone.num_layers=2",
            "probe.bootstrap_samples=20", "probe.permutations=20", "probe.training_sets=0",
            f"paths.cache_dir={folder / 'cache'}", f"paths.output_dir={folder / 'out'}",
        ]  # fmt: skip
        run(compose("train", overrides=overrides))
    with (folder / "out/results.csv").open(newline="") as file:
        return [tuple(row) for row in csv.reader(file)]


def test_tasks_in_another_order_give_identical_rows(tmp_path):
    expected = rows_of_a_run(tmp_path / "first", TASKS)
    rows = rows_of_a_run(tmp_path / "second", (TASKS[2], TASKS[0], TASKS[1]))
    assert rows[0] == expected[0]
    assert sorted(rows) == sorted(expected)
    metric = rows[0].index("metric")
    between = {
        row[metric] for row in rows if row[metric].startswith(("task_separability/", "specificity/", "boundary/"))
    }
    assert len(between) >= 4
