"""Suites from datasets on the Hub, or from any folder that `datasets.load_dataset` can read."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from probes.tasks.build import build_task
from probes.tasks.checks import choose_tasks
from probes.tasks.groups import Alignment, aligned, with_separate_groups
from probes.tasks.prompts import column_template, template_renderer
from probes.tasks.splits import MaxRows, split_name
from probes.tasks.task import RawTask, Row, Suite, Task, TaskKind
from probes.values import SPLITS


def load_hub_suite(
    path: str,
    *,
    config: str | None = None,
    revision: str | None = None,
    splits: Mapping[str, str | None] | None = None,
    text: str = "text",
    instruction: str | None = None,
    label: str = "label",
    labels: Sequence[str] | None = None,
    kind: TaskKind | None = None,
    definitions: Mapping[str, Mapping[str, Any]] | None = None,
    tasks: Sequence[str] | None = None,
    max_rows: MaxRows = None,
    prompt: str = "instruction",
    template: str | None = None,
    nuisances: Sequence[str] = (),
    group: str | None = None,
    align: Alignment | None = None,
    seed: int = 0,
    strict: bool = False,
    name: str | None = None,
) -> Suite:
    """Load one task of a dataset, or several that are defined by their differences.

    Args:
        path: Name of the dataset on the Hub, or a local folder.
        config: Configuration of the dataset; `None` if it has only one.
        revision: Branch, tag or commit; `None` for the newest.
        splits: `train`, `validation`, `test` → split of the dataset; `None` if they have these names there. An empty
            `validation` is carved from train. Where the dataset's test split has no labels (GLUE), name a labelled
            split as `test`.
        text: The raw prompt: a column, or a template with `{column}` placeholders.
        instruction: The instruction prompt: a template with `{column}` placeholders.
        label: The column with the labels.
        labels: Names of the classes in index order (or the strings in the column); `None` for those of the dataset.
        kind: `classification`, `multilabel`, `regression` or `generation`; `None` to infer it from the type of `label`.
        definitions: Task name → those of the arguments above that differ for it, and its `cluster` and `unseen`.
            `None` for one task with the name of the suite.
        tasks: Names of the tasks to load, in this order; `None` for all.
        max_rows: At most this many rows in each split, or a mapping split → rows, drawn so that no class vanishes.
        prompt: `instruction` or `raw`.
        template: A string with `{column}` placeholders, used for all tasks in place of `prompt`.
        nuisances: Columns that may explain the label, such as its source, for an audit for nuisances.
        group: Field of the rows, such as a domain or a template, whose values are never in two splits: all rows are
            then divided anew. `None` for the splits as they are.
        align: Task → label → common label, so that probes of one task can be tried on another; see `aligned`.
        seed: Decides which rows are drawn, and the carved validation split.
        strict: Raise on prompts that two splits share instead of warning.
        name: Name of the suite; `None` for the last part of `path`.

    Raises:
        ValueError: There is no such dataset, configuration, split or column, or rows are bad; the message names the
            key to set.
    """
    suite_name = name or path.rstrip("/").rsplit("/", 1)[-1]
    base = HubTask(
        name=suite_name, path=path, config=config, revision=revision, splits=splits, text=text,
        instruction=instruction, label=label, labels=labels, kind=kind,
    )  # fmt: skip
    definitions = definitions or {suite_name: {}}
    tasks_by_name = {task: _define(base, task, changes) for task, changes in definitions.items()}
    built: list[Task] = []
    for task in choose_tasks(tasks, tuple(tasks_by_name)):
        definition = tasks_by_name[task]
        text_template, key = column_template(
            task, text=definition.text, instruction=definition.instruction, prompt=prompt, template=template
        )
        dataset = load_dataset_splits(definition)
        source_splits = _source_splits(definition, dataset)
        columns = [column for column in dataset[source_splits["train"]].column_names if column != definition.label]
        render = template_renderer(task, text_template, columns, key)
        kept = [*nuisances, *([] if group is None else [group])]
        raw = _read(definition, dataset, source_splits, text_template, kept)
        raw = with_separate_groups(raw, group, seed=seed)
        built.append(
            build_task(raw, render, max_rows=max_rows, seed=seed, strict=strict, columns=nuisances, group=group)
        )
    return aligned(Suite(suite_name, tuple(built)), align)


@dataclass(frozen=True, kw_only=True)
class HubTask:
    """Where to find one task in a dataset; `load_hub_suite` explains each field."""

    name: str
    path: str
    config: str | None = None
    revision: str | None = None
    splits: Mapping[str, str | None] | None = None
    text: str = "text"
    instruction: str | None = None
    label: str = "label"
    labels: Sequence[str] | None = None
    kind: TaskKind | None = None
    cluster: str = ""
    unseen: bool = False


def _define(base: HubTask, task: str, changes: Mapping[str, Any]) -> HubTask:
    """One task: the settings of the suite with the changes of `suite.definitions.<task>`."""
    keys = {field.name for field in fields(HubTask)} - {"name"}
    if unknown := sorted(set(changes) - keys):
        raise ValueError(
            f"`suite.definitions.{task}` has no key {', '.join(unknown)}. Its keys are {', '.join(sorted(keys))}."
        )
    definition = dataclasses.replace(base, **{**changes, "name": task})
    if unknown := sorted({split_name(split) for split in definition.splits or ()} - set(SPLITS)):
        raise ValueError(
            f"`suite.splits` of task '{task}' has no key {', '.join(unknown)}. Its keys are {', '.join(SPLITS)}."
        )
    return definition


def load_dataset_splits(definition: HubTask) -> Mapping[str, Any]:
    """Split of the dataset → its `datasets.Dataset`.

    Raises:
        ValueError: There is no such dataset or configuration, or it cannot be read.
    """
    from datasets import exceptions, load_dataset  # imported here because it takes a second

    dataset = f"dataset '{definition.path}'" + (f", configuration '{definition.config}'" if definition.config else "")
    try:
        loaded = load_dataset(definition.path, definition.config, revision=definition.revision)
        return {str(split): rows for split, rows in loaded.items()}
    except (exceptions.DatasetNotFoundError, FileNotFoundError, ConnectionError) as error:
        raise ValueError(
            f"No {dataset} found: {error} Set `suite.path` (and `suite.revision`) to a dataset on the Hub or a folder."
        ) from error
    except (ValueError, RuntimeError) as error:
        raise ValueError(
            f"Cannot read {dataset}: {error} Set `suite.config`, or `suite.revision=refs/convert/parquet` if the "
            "repository has only a loading script."
        ) from error


def _source_splits(definition: HubTask, dataset: Mapping[str, Any]) -> dict[str, str]:
    """Split of the task → split of the dataset; a validation split that is to be carved from train is left out."""
    mapping = definition.splits or {split: split for split in SPLITS}
    sources = {split_name(split): source for split, source in mapping.items()}
    found: dict[str, str] = {}
    for split in SPLITS:
        source = sources.get(split)
        if source is None:
            if split == "validation":
                continue
            raise ValueError(f"`suite.splits.{split}` of task '{definition.name}' is empty; only `validation` may be.")
        if source in dataset:
            found[split] = source
        elif not (
            split == source == "validation"
        ):  # the default name may be absent: `build_task` then carves and warns
            raise ValueError(
                f"Dataset '{definition.path}' has no split '{source}' for task '{definition.name}'. It has "
                f"{', '.join(dataset)}. Set `suite.splits.{split}` among these."
            )
    return found


def _read(
    definition: HubTask,
    dataset: Mapping[str, Any],
    splits: Mapping[str, str],
    template: str,
    nuisances: Sequence[str],
) -> RawTask:
    train = dataset[splits["train"]]
    if definition.kind != "generation" and definition.label not in train.column_names:
        raise ValueError(
            f"Dataset '{definition.path}' has no column '{definition.label}' for task '{definition.name}'. It has "
            f"{', '.join(train.column_names)}. Set `suite.label` among these."
        )
    return RawTask(
        name=definition.name,
        rows={split: _rows(dataset[source], definition, template, nuisances) for split, source in splits.items()},
        kind=definition.kind,
        labels=_class_names(definition, train.features.get(definition.label)),
        cluster=definition.cluster,
        unseen=definition.unseen,
        source=":".join(part for part in (definition.path, definition.config) if part),
        locations={split: f"split '{source}' of {definition.path}" for split, source in splits.items()},
    )


def _rows(dataset: Any, definition: HubTask, template: str, nuisances: Sequence[str]) -> list[Row]:
    """The nuisances, the columns that the template names and the label, the answer (`targets`) of a generation task."""
    columns = [name for name in dataset.column_names if name != definition.label]
    names = [name for name in columns if f"{{{name}" in template or name in nuisances]
    columns = [list(dataset[name]) for name in names]
    if definition.label in dataset.column_names:
        names.append("targets" if definition.kind == "generation" else "label")
        columns.append(list(dataset[definition.label]))
    return [dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True)]


def _class_names(definition: HubTask, feature: Any) -> tuple[str, ...] | None:
    """The declared names, else those of a `ClassLabel` feature (or of a list of these), else `None`."""
    if definition.labels is not None:
        return tuple(str(name) for name in definition.labels)
    names = getattr(feature, "names", None) or getattr(getattr(feature, "feature", None), "names", None)
    return None if names is None else tuple(names)
