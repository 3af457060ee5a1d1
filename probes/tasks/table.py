"""A suite of one task from a table: which columns are the text and the label, and which rows are in which split."""

from __future__ import annotations

import dataclasses
import logging
import string
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from probes.tasks.build import build_task
from probes.tasks.groups import Alignment, aligned
from probes.tasks.prompts import column_template, template_renderer
from probes.tasks.splits import MaxRows, draw_splits, split_name
from probes.tasks.table_file import Table, read_table
from probes.tasks.table_labels import AutoKind, TableLabels, read_labels
from probes.tasks.task import RawTask, Render, Suite
from probes.values import SPLITS

if TYPE_CHECKING:
    from pandas import DataFrame

_log = logging.getLogger(__name__)

_INCOMPLETE = ("refuse", "drop")


def table_suite(
    path: str | Path | DataFrame,
    *,
    text: str = "text",
    label: str = "label",
    kind: AutoKind | Literal["ordinal"] = "auto",
    labels: Sequence[str | int] | None = None,
    ordered: bool = False,
    split: str | None = None,
    group: str | None = None,
    validation_share: float = 0.2,
    test_share: float = 0.2,
    incomplete_rows: Literal["refuse", "drop"] = "refuse",
    instruction: str | None = None,
    prompt: str = "raw",
    template: str | None = None,
    max_rows: MaxRows = None,
    nuisances: Sequence[str] = (),
    align: Alignment | None = None,
    seed: int = 0,
    strict: bool = False,
    name: str | None = None,
) -> Suite:
    """Make one task of a CSV, TSV, Parquet or JSON lines file, or of a pandas DataFrame.

    Labels that are words are classes, lists are multi-label, whole numbers are classes if there are at most 20 distinct
    ones, and other numbers are regression. Without a column `split`, rows are drawn for the three splits: classes have
    about the same share of each, and rows with the same text or of the same group stay together.

    Args:
        path: The file, which ends in `.csv`, `.tsv`, `.parquet` or `.jsonl` (possibly compressed), or a data frame.
        text: The raw prompt: a column, or a template with `{column}` placeholders.
        label: The column with the labels; the answers in words if `kind` is `generation`.
        kind: `classification`, `ordinal` (a classification that is `ordered`), `multilabel`, `regression`,
            `generation`, or `auto` to infer it from the labels.
        labels: Names of the classes in the order of their indices. If the column has whole numbers that are none of the
            names, they are the indices. `None` for the classes in the column, in numerical or alphabetical order.
        ordered: Whether the classes are in order, such as ratings.
        split: The column that says `train`, `validation` or `test`; `None` to draw the splits. If it names no
            validation rows, some are drawn from the training rows.
        group: Rows with the same value in this column, such as an author, are never in two splits.
        validation_share: Share of the rows that are drawn for validation (of the training rows if there is `split`).
        test_share: Share of the rows that are drawn for test.
        incomplete_rows: What to do with rows without text or label: `refuse` the table, or `drop` them, with a count.
        instruction: The instruction prompt: a template with `{column}` placeholders.
        prompt: `raw` or `instruction`.
        template: A template that is used in place of `prompt`.
        max_rows: At most this many rows in each split, or a mapping split → rows, drawn so that no class vanishes.
        nuisances: Columns that may explain the label, such as its source, for an audit for nuisances.
        align: Task → label → common label, so that probes of one task can be tried on another; see `aligned`.
        seed: Decides the splits and which rows are drawn.
        strict: Raise on prompts that two splits share instead of warning.
        name: Name of the suite and of its task; `None` for the file's name without its ending, or `table`.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: Bad settings or rows; the message names the file, row and column, and the key to set.

    Example:
        >>> import pandas as pd
        >>> frame = pd.DataFrame({"body": [f"It is {i}." for i in range(20)], "odd": [i % 2 for i in range(20)]})
        >>> (task,) = table_suite(frame, text="body", label="odd").tasks
        >>> task.kind, task.labels, {split: len(rows) for split, rows in task.splits.items()}
        ('classification', ('0', '1'), {'train': 12, 'validation': 4, 'test': 4})
    """
    shares = _shares(validation_share, test_share)
    if incomplete_rows not in _INCOMPLETE:
        raise ValueError(f"Set `suite.incomplete_rows` to {' or '.join(_INCOMPLETE)}; got {incomplete_rows!r}.")
    if kind == "ordinal":
        kind, ordered = "classification", True
    table = read_table(path)
    task = name or table.name
    chosen, key = column_template(task, text=text, instruction=instruction, prompt=prompt, template=template)
    rows = _complete_rows(table, task, (chosen, key), label, drop=incomplete_rows == "drop")
    read = read_labels(table, label, rows.numbers, kind=kind, labels=labels, ordered=ordered)
    groups = None if group is None else _groups(table, group, rows.numbers)
    if split is None:
        read.check_rare_classes(table, label, rows.numbers)
        in_split = _drawn(rows.prompts, read, groups, shares, seed=seed, task=task)
    else:
        in_split = _declared(table, split, rows.numbers)
        if groups is not None:
            _check_groups(table, str(group), groups, in_split)
        if "validation" not in in_split and "train" in in_split:
            in_split = _with_validation(in_split, rows.prompts, read, groups, validation_share, seed=seed, task=task)
    kept = [*nuisances, *([] if group is None else [group])]
    raw = _raw_task(task, table, rows, read, in_split, kept)
    built = build_task(
        raw, lambda row: row["text"], max_rows=max_rows, seed=seed, strict=strict, columns=nuisances, group=group
    )
    return aligned(Suite(task, (built,)), align)


@dataclass(frozen=True)
class _Rows:
    """The rows that have a text and a label: their numbers in the table, counted from 0, and their prompts."""

    numbers: list[int]
    prompts: list[str]


def _shares(validation_share: float, test_share: float) -> dict[str, float]:
    """Split → share of all rows.

    Raises:
        ValueError: A share is not between 0 and 1, or none is left for train.
    """
    for key, share in (("validation_share", validation_share), ("test_share", test_share)):
        if not 0 < share < 1:
            raise ValueError(f"`suite.{key}` must lie between 0 and 1; got {share}.")
    if validation_share + test_share >= 1:
        raise ValueError(
            f"`suite.validation_share`={validation_share} and `suite.test_share`={test_share} leave no rows for train. "
            "Their sum must be below 1."
        )
    return {"train": 1 - validation_share - test_share, "validation": validation_share, "test": test_share}


def _complete_rows(table: Table, task: str, template: tuple[str, str], label: str, *, drop: bool) -> _Rows:
    """Render the prompts of all rows; those without text or label are refused or dropped."""
    labels = table.column(label, "suite.label")
    fields = [name for name in table.columns if name != label]
    render = template_renderer(task, template[0], fields, key=template[1])
    used = [name for _, name, _, _ in string.Formatter().parse(template[0]) if name is not None]
    columns = {name: table.columns[name] for name in used}
    rows, without = _Rows([], []), {"text": [], "label": []}
    for number, value in enumerate(labels):
        cells = {name: values[number] for name, values in columns.items()}
        if all(cell is None for cell in cells.values()):
            without["text"].append(number)
        elif value is None:
            without["label"].append(number)
        else:
            rows.numbers.append(number)
            rows.prompts.append(_rendered(render, cells, table.locate(number)))
    for what, numbers in without.items():
        if numbers and not drop:
            column = label if what == "label" else ", ".join(used)
            raise ValueError(
                f"{table.locate(numbers[0], column)}: there is no {what}, as in {len(numbers)} of {len(labels)} rows. "
                "Fill it in, or set `suite.incomplete_rows=drop` to leave such rows out."
            )
    if any(without.values()):
        _log.warning(
            "%s: %d rows without text and %d without label are left out; %d of %d rows stay.",
            table.place, len(without["text"]), len(without["label"]), len(rows.numbers), len(labels),
        )  # fmt: skip
    return rows


def _rendered(render: Render, cells: Mapping[str, Any], where: str) -> str:
    """The prompt of a row; a missing value is an empty string."""
    try:
        return render({name: "" if cell is None else cell for name, cell in cells.items()})
    except TypeError as error:
        raise ValueError(f"The prompt of {where} cannot be made: {error} Set `suite.text` to other columns.") from error


def _groups(table: Table, group: str, numbers: Sequence[int]) -> list[Any]:
    values = table.column(group, "suite.group")
    for number in numbers:
        if values[number] is None:
            raise ValueError(
                f"{table.locate(number, group)}: there is no group. Fill it in, or set `suite.group` to another column."
            )
    return [str(values[number]) for number in numbers]


def _drawn(
    prompts: Sequence[str],
    labels: TableLabels,
    groups: Sequence[str] | None,
    shares: dict[str, float],
    *,
    seed: int,
    task: str,
) -> list[str]:
    """The split of each row, drawn by the seed."""
    if groups is not None and len(set(groups)) < len(shares):
        raise ValueError(
            f"Task '{task}' has {len(set(groups))} groups, too few for {len(shares)} splits that share none. Set "
            "`suite.group` to another column, or name the split of each row in a column (`suite.split`)."
        )
    keys = [prompts] if groups is None else [prompts, groups]
    in_split = draw_splits(keys, labels.strata, shares, seed=seed, task=task)
    sizes = Counter(in_split)
    if len(sizes) < len(shares):
        found = ", ".join(f"{split} {sizes[split]}" for split in shares)
        raise ValueError(
            f"The {len(prompts)} rows of task '{task}' do not fill all splits ({found}). Give it more rows or groups, "
            "larger `suite.validation_share` and `suite.test_share`, or a column with splits (`suite.split`)."
        )
    _log.info(
        "Task '%s': %s rows, drawn by `suite.seed`=%d.", task,
        ", ".join(f"{sizes[split]} {split}" for split in shares), seed,
    )  # fmt: skip
    return in_split


def _declared(table: Table, split: str, numbers: Sequence[int]) -> list[str]:
    """The split of each row as a column says it."""
    values = table.column(split, "suite.split")
    found = [split_name(str(values[number] or "").strip().lower()) for number in numbers]
    for number, own in zip(numbers, found, strict=True):
        if own not in SPLITS:
            raise ValueError(
                f"{table.locate(number, split)}: {values[number]!r} is no split. Splits are {', '.join(SPLITS)}. "
                "Correct the row, or set `suite.split` to another column, or to null to draw the splits."
            )
    return found


def _check_groups(table: Table, group: str, groups: Sequence[str], in_split: Sequence[str]) -> None:
    first: dict[str, str] = {}
    for own, split in zip(groups, in_split, strict=True):
        if first.setdefault(own, split) != split:
            raise ValueError(
                f"{table.place}, column '{group}': group '{own}' has rows in {first[own]} and in {split}. Correct the "
                "splits, or set `suite.split=null` to draw splits that share no group, or `suite.group=null`."
            )


def _with_validation(
    in_split: Sequence[str],
    prompts: Sequence[str],
    labels: TableLabels,
    groups: Sequence[str] | None,
    share: float,
    *,
    seed: int,
    task: str,
) -> list[str]:
    """Splits of which the validation rows are drawn from the training rows."""
    train = [row for row, own in enumerate(in_split) if own == "train"]
    strata = dataclasses.replace(labels, values=[labels.values[row] for row in train])
    drawn = _drawn(
        [prompts[row] for row in train],
        strata,
        None if groups is None else [groups[row] for row in train],
        {"train": 1 - share, "validation": share},
        seed=seed,
        task=task,
    )
    result = list(in_split)
    for row, own in zip(train, drawn, strict=True):
        result[row] = own
    return result


def _raw_task(
    task: str, table: Table, rows: _Rows, labels: TableLabels, in_split: Sequence[str], kept: Sequence[str]
) -> RawTask:
    field = "targets" if labels.kind == "generation" else "label"
    by_split: dict[str, list[dict[str, Any]]] = {split: [] for split in SPLITS if split in in_split}
    columns = {name: table.column(name, "suite.nuisances") for name in kept}
    for number, prompt, value, own in zip(rows.numbers, rows.prompts, labels.values, in_split, strict=True):
        further = {name: values[number] for name, values in columns.items()}
        by_split[own].append({**further, "text": prompt, field: value})
    return RawTask(
        name=task,
        rows=by_split,
        kind=labels.kind,
        labels=labels.class_names,
        source=table.place,
        ordered=labels.ordered,
        locations=dict.fromkeys(by_split, f"counted within its split, from {table.place}"),
    )
