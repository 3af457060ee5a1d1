"""What a layer-by-layer study asks of its suite: answers to tune on, and rows to watch meanwhile."""

from __future__ import annotations

from probes.backbones import FrozenBackbone
from probes.callbacks import LiveRows
from probes.studies.inputs import test_labels
from probes.tasks import Suite

WATCHED_ROWS = 64
MIN_ROWS = 5  # of a test split: CKA without each row wants four


def with_answers(suite: Suite) -> Suite:
    """The suite, held to what tuning wants of every task.

    Raises:
        ValueError: No tasks; a task without training rows, with too few test rows, or with rows without answer.
    """
    for task in suite.tasks:
        for split, least in (("train", 1), ("test", MIN_ROWS)):
            rows = len(task.splits[split]) if split in task.splits else 0
            if rows < least:
                raise ValueError(
                    f"Task '{task.name}' has {rows} {split} rows, and a layer-by-layer study wants {least} or more. "
                    "Mend the data, set `suite.max_rows` higher, or leave the task out of `suite.tasks`."
                )
        empty = sum(not target.strip() for split in task.splits.values() for target in split.targets)
        if empty:
            raise ValueError(
                f"Task '{task.name}' has {empty} rows without an answer in words to tune on. Set "
                "`suite.prompt=instruction`, or leave the task out of `suite.tasks`."
            )
    if not suite.tasks:
        raise ValueError(f"Suite '{suite.name}' has no tasks. Set `suite.tasks`.")
    return suite


def watched_rows(base: FrozenBackbone, suite: Suite) -> LiveRows:
    """The first `WATCHED_ROWS` test rows of every seen task, for looks at the experimental model while it is tuned."""
    seen = [task for task in suite.tasks if not task.unseen]
    labels = {task.name: own[:WATCHED_ROWS] for task in seen if (own := test_labels(task)) is not None}
    return LiveRows(base, {task.name: task.splits["test"].prompts[:WATCHED_ROWS] for task in seen}, labels)
