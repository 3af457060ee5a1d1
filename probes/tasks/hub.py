"""Suites from datasets on the Hub, or from any folder `datasets.load_dataset` reads."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from probes.tasks.build import build_task
from probes.tasks.checks import choose_tasks
from probes.tasks.prompts import PROMPTS, template_renderer
from probes.tasks.splits import MaxRows, split_name
from probes.tasks.task import RawTask, Render, Row, Suite, Task, TaskKind
from probes.values import SPLITS

_AS_NAMED: Mapping[str, str | None] = {split: split for split in SPLITS}


@dataclass(frozen=True, kw_only=True)
class HubTask:
    """Where one task lies in a dataset; see `load_hub_suite` for the meaning of each field."""

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
    seed: int = 0,
    strict: bool = False,
    name: str | None = None,
) -> Suite:
    """Load one task, or several defined by what differs between them.

    Args:
        path: Name of the dataset on the Hub, or a local folder.
        config: Its configuration, `None` for the only one.
        revision: Branch, tag or commit.
        splits: `train`, `validation`, `test` → split of the dataset; `None`: called the same there. An empty
            `validation` is carved from train by `seed`; name a labelled split as `test` where the real one has no
            labels (GLUE).
        text: The raw prompt: a column, or a template with `{column}` placeholders.
        instruction: The instruction prompt: a template with `{column}` placeholders.
        label: The column of labels.
        labels: Names of the classes in index order (or the words the column holds); `None`: those of the dataset.
        kind: `classification`, `multilabel`, `regression` or `generation`; `None`: by the type of `label`.
        definitions: Task name → those of the arguments above that differ for it, and its `cluster` and `unseen`.
            `None`: one task, called like the suite.
        tasks: Names of the tasks wanted, in this order; all of them for `None`.
        max_rows: Rows at most in each split (or a mapping split → rows), drawn by `seed` so that no class vanishes.
        prompt: `instruction` or `raw`.
        template: A string with `{column}` placeholders instead, for all tasks.
        seed: Decides which rows are drawn.
        strict: Refuse rows that stand in two splits instead of warning.
        name: Name of the suite; the last part of `path` for `None`.

    Raises:
        ValueError: No such dataset, configuration, split or column, or bad rows; the message names the key to set.
    """
    suite_name = name or path.rstrip("/").rsplit("/", 1)[-1]
    base = HubTask(
        name=suite_name, path=path, config=config, revision=revision, splits=splits, text=text,
        instruction=instruction, label=label, labels=labels, kind=kind,
    )  # fmt: skip
    defined = {task: _define(base, task, changes) for task, changes in (definitions or {suite_name: {}}).items()}
    built: list[Task] = []
    for task in choose_tasks(tasks, tuple(defined)):
        definition = defined[task]
        chosen, key = _template(definition, prompt, template)
        dataset = _load(definition)
        render = _renderer(definition, dataset, chosen, key)
        table = _read(definition, dataset, chosen)
        built.append(build_task(table, render, max_rows=max_rows, seed=seed, strict=strict))
    return Suite(suite_name, tuple(built))


def _define(base: HubTask, task: str, changes: Mapping[str, Any]) -> HubTask:
    known = {field.name for field in fields(HubTask)} - {"name"}
    if unknown := sorted(set(changes) - known):
        raise ValueError(
            f"`suite.definitions.{task}` has no key {', '.join(unknown)}. Its keys are {', '.join(sorted(known))}."
        )
    definition = dataclasses.replace(base, **{**changes, "name": task})
    unknown_splits = sorted({split_name(split) for split in definition.splits or _AS_NAMED} - set(SPLITS))
    if unknown_splits:
        raise ValueError(
            f"`suite.splits` knows {', '.join(SPLITS)}; got {', '.join(unknown_splits)} for task '{task}'."
        )
    return definition


def _template(definition: HubTask, prompt: str, template: str | None) -> tuple[str, str]:
    """The template of a task's prompts, and the configuration key it comes from."""
    if template is not None:
        return template, "suite.template"
    if prompt not in PROMPTS:
        raise ValueError(f"No prompt '{prompt}'. Set `suite.prompt` to {' or '.join(PROMPTS)}, or `suite.template`.")
    if prompt == "raw":
        return (definition.text if "{" in definition.text else f"{{{definition.text}}}"), "suite.text"
    if definition.instruction is None:
        raise ValueError(
            f"Task '{definition.name}' has no instruction. Set `suite.instruction` to a template with {{column}} "
            "placeholders, or `suite.prompt=raw`."
        )
    return definition.instruction, "suite.instruction"


def _load(definition: HubTask) -> Mapping[str, Any]:
    from datasets import exceptions, load_dataset  # takes a second: only those who need it wait

    where = f"dataset '{definition.path}'" + (f", configuration '{definition.config}'" if definition.config else "")
    try:
        loaded = load_dataset(definition.path, definition.config, revision=definition.revision)
        return {str(split): rows for split, rows in loaded.items()}
    except (exceptions.DatasetNotFoundError, FileNotFoundError, ConnectionError) as error:
        raise ValueError(
            f"No {where} found: {error} Set `suite.path` (and `suite.revision`) to a dataset on the Hub or a folder."
        ) from error
    except (ValueError, RuntimeError) as error:
        raise ValueError(
            f"Cannot read {where}: {error} Set `suite.config`, or `suite.revision=refs/convert/parquet` where the "
            "repository only has a loading script."
        ) from error


def _renderer(definition: HubTask, dataset: Mapping[str, Any], template: str, key: str) -> Render:
    split = _source_splits(definition, dataset)["train"]
    columns = [column for column in dataset[split].column_names if column != definition.label]
    return template_renderer(definition.name, template, columns, key)


def _source_splits(definition: HubTask, dataset: Mapping[str, Any]) -> dict[str, str]:
    """Split here → split there, those left empty dropped; `train` and `test` are asked for even when not named."""
    wanted = {split_name(split): source for split, source in (definition.splits or _AS_NAMED).items()}
    chosen = {split: source for split in SPLITS if (source := wanted.get(split)) is not None}
    for split in ("train", "test"):
        if split not in chosen:
            raise ValueError(f"`suite.splits.{split}` of task '{definition.name}' is empty; only `validation` may be.")
    for split, source in list(chosen.items()):
        if source in dataset:
            continue
        if split == source == "validation":
            del chosen[split]  # not asked for by name: carved from train, with a word in the _log
            continue
        raise ValueError(
            f"Dataset '{definition.path}' has no split '{source}' for task '{definition.name}'. It has "
            f"{', '.join(dataset)}. Set `suite.splits.{split}` among these."
        )
    return chosen


def _read(definition: HubTask, dataset: Mapping[str, Any], template: str) -> RawTask:
    splits = _source_splits(definition, dataset)
    columns = dataset[splits["train"]].column_names
    if definition.kind != "generation" and definition.label not in columns:
        raise ValueError(
            f"Dataset '{definition.path}' has no column '{definition.label}' for task '{definition.name}'. It has "
            f"{', '.join(columns)}. Set `suite.label` among these."
        )
    rows = {split: _rows(dataset[source], definition, template) for split, source in splits.items()}
    return RawTask(
        name=definition.name,
        rows=rows,
        kind=definition.kind,
        labels=_class_names(definition, dataset[splits["train"]].features.get(definition.label)),
        cluster=definition.cluster,
        unseen=definition.unseen,
        source=":".join(part for part in (definition.path, definition.config) if part),
        places={split: f"split '{source}' of {definition.path}" for split, source in splits.items()},
    )


def _rows(split: Any, definition: HubTask, template: str) -> list[Row]:
    used = [column for column in split.column_names if f"{{{column}" in template and column != definition.label]
    labelled = definition.label in split.column_names
    answers = "targets" if definition.kind == "generation" else "label"
    columns = [list(split[column]) for column in used] + ([list(split[definition.label])] if labelled else [])
    names = [*used, answers] if labelled else used
    return [dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True)]


def _class_names(definition: HubTask, feature: Any) -> tuple[str, ...] | None:
    if definition.labels is not None:
        return tuple(str(name) for name in definition.labels)
    names = getattr(feature, "names", None) or getattr(getattr(feature, "feature", None), "names", None)
    return None if names is None else tuple(names)
