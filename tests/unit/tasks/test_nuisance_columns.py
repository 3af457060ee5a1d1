"""Columns that an audit needs go with the rows, whatever the loader, the cap and the carved validation split."""

from __future__ import annotations

import pandas as pd
import pytest

from probes.tasks import load_hub_suite, load_local_suite, table_suite


def test_columns_of_json_lines_go_with_their_rows(write_task, rows):
    def with_source(prefix: str, n: int):
        return [{**row, "source": f"of {row['inputs'].split()[1]}", "year": i} for i, row in enumerate(rows(prefix, n))]

    folder = write_task(train=with_source("Bo", 40), test=with_source("Al", 20))
    (task,) = load_local_suite(folder, nuisances=["source", "year"], max_rows=10).tasks
    assert len(task.splits["test"]) == 10
    for split in task.splits.values():
        assert set(split.columns) == {"source", "year"}
        numbers = [prompt.split()[1] for prompt in split.prompts]
        assert list(split.columns["source"]) == [f"of {number}" for number in numbers]
        assert list(split.columns["year"]) == [int(number) for number in numbers]


def test_a_row_without_the_column_is_named(write_task, rows):
    folder = write_task(train=rows("Bo", 40), test=rows("Al", 20))
    with pytest.raises(ValueError, match=r"split 'train', row \d+ .* has no `source`, which `suite\.nuisances` names"):
        load_local_suite(folder, nuisances=["source"])


def test_columns_of_tables_go_with_their_rows():
    rows = [{"body": f"row {i}", "odd": i % 2, "where": f"at {i}"} for i in range(60)]
    frame = pd.DataFrame(rows)
    (task,) = table_suite(frame, text="body", label="odd", nuisances=["where"]).tasks
    for split in task.splits.values():
        assert list(split.columns["where"]) == [prompt.replace("row", "at") for prompt in split.prompts]
    with pytest.raises(ValueError, match=r"no column 'were'\. Did you mean 'where'\?.*`suite\.nuisances`"):
        table_suite(frame, text="body", label="odd", nuisances=["were"])


@pytest.mark.usefixtures("offline_datasets")
def test_columns_of_datasets_go_with_their_rows(tmp_path):
    folder = tmp_path / "dataset"
    folder.mkdir()
    for split, prefix in (("train", "a"), ("test", "b")):
        rows = [{"text": f"{prefix} {i}", "label": i % 2, "domain": f"d{i}", "other": 1} for i in range(40)]
        pd.DataFrame(rows).to_json(folder / f"{split}.jsonl", orient="records", lines=True)
    (task,) = load_hub_suite(str(folder), prompt="raw", nuisances=["domain"]).tasks
    for split in task.splits.values():
        assert list(split.columns) == ["domain"]
        assert list(split.columns["domain"]) == [f"d{prompt.split()[1]}" for prompt in split.prompts]
