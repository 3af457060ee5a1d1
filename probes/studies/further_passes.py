"""What measures need besides a task's activations: the same rows with other prompts, or with random weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from probes.activations import ExtractionSettings
from probes.analysis.geometry.token_paths import prompt_entropy, token_curvature
from probes.backbones import FrozenBackbone, with_random_weights
from probes.probe_measures import TextPairs
from probes.studies.suite_activations import SuiteActivations, read_suite, task_data
from probes.tasks import Split, Suite, Task
from probes.training import LabelledActivations, TaskData
from probes.values import SPLITS, LayerProfile, Reading


@dataclass(frozen=True)
class FurtherPasses:
    """Everything that was read of a suite.

    Attributes:
        activations: Of the tasks themselves, and of their variants.
        variants: Task → name of a variant → the task with the variant's prompts, under a name of its own.
        random_weights: The activations of the same architecture with random weights; `None` if no measure needs them.
        token_paths: Task → quantity of the paths from token to token → its values, shape `(layers, texts)`, in the
            residual stream of `token_stack`.
        token_stack: The backbone's first stack.
        pairs: Tasks of pairs of texts that were read, because a measure asks for them.
    """

    activations: SuiteActivations
    variants: Mapping[str, Mapping[str, Task]] = field(default_factory=dict)
    random_weights: SuiteActivations | None = None
    token_paths: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)
    token_stack: str = ""
    pairs: Sequence[Task] = ()

    def pairs_of(self, task: Task, reading: Reading, *, probed: Sequence[LayerProfile], seed: int) -> TextPairs:
        """The activations of both texts of each pair of a task.

        Args:
            task: One of `pairs`.
            reading: Of texts.
            probed: Main scores of the probed tasks.
            seed: The run's.
        """
        rows = task.splits["test"]
        first, second = (self.activations.rows(side, "test", reading) for side in _sides(task))
        return TextPairs(
            task=task.name,
            reading=reading,
            layers=first.layers,
            first=first.values,
            second=second.values,
            first_texts=rows.prompts,
            second_texts=rows.seconds,
            gold=torch.tensor(rows.labels, dtype=torch.float64),
            probed=probed,
            seed=seed,
        )

    def token_paths_of(self, task: Task, reading: Reading) -> Mapping[str, Tensor]:
        """A task's paths from token to token, if a reading is of the residual stream that they were computed in."""
        read = (reading.stack, reading.site) == (self.token_stack, "residual")
        return self.token_paths.get(task.name, {}) if read else {}

    def variants_of(self, data: TaskData, reading: Reading) -> Mapping[str, TaskData]:
        """Name of a variant → the task's rows with its prompts; rows keep their names, so that scores are paired.

        A variant is loaded each time it is looked up, so that not all of them are in memory at once.
        """
        return _Variants(self, data, reading)

    def random_weights_of(self, task: Task, reading: Reading) -> TaskData | None:
        """The task's rows in the same architecture with random weights, if they were read."""
        return None if self.random_weights is None else task_data(task, self.random_weights, reading)


@dataclass(frozen=True)
class _Variants(Mapping[str, TaskData]):
    """The variants of a task, loaded when they are looked up."""

    passes: FurtherPasses
    data: TaskData
    reading: Reading

    @property
    def _tasks(self) -> Mapping[str, Task]:
        return self.passes.variants.get(self.data.task, {})

    def __getitem__(self, name: str) -> TaskData:
        read = task_data(self._tasks[name], self.passes.activations, self.reading)
        splits = {split: _renamed(getattr(read, split), getattr(self.data, split)) for split in SPLITS}
        return replace(read, task=self.data.task, **splits)

    def __contains__(self, name: object) -> bool:
        return name in self._tasks  # without loading it

    def __iter__(self) -> Iterator[str]:
        return iter(self._tasks)

    def __len__(self) -> int:
        return len(self._tasks)


def read_with_further_passes(
    suite: Suite,
    backbone: FrozenBackbone,
    extraction: ExtractionSettings,
    cache_dir: Path,
    *,
    measures: Sequence[Callable[..., object]],
    pairs: Sequence[Task] = (),
    seed: int,
) -> FurtherPasses:
    """Read a suite and what its measures need besides: variants of prompts in the same pass, random weights in another.

    Args:
        suite: Tasks with labels.
        backbone: What reads them.
        extraction: Poolings, sites, lengths.
        cache_dir: Activations are kept under it.
        measures: May have the members `variants`, `random_weights`, `token_texts` and `of_pairs`; see `ProbeMeasure`.
        pairs: Tasks of pairs of texts; they are read if a measure has the member `of_pairs`.
        seed: Of random weights.
    """
    variants = {task.name: named for task in suite.tasks if (named := _variants_of(task, measures))}
    pairs = tuple(pairs) if any(hasattr(measure, "of_pairs") for measure in measures) else ()
    further = [task for named in variants.values() for task in named.values()]
    further += [side for task in pairs for side in _sides(task)]
    activations = read_suite(Suite(suite.name, (*suite.tasks, *further)), backbone, extraction, cache_dir)
    random = None
    if any(getattr(measure, "random_weights", False) for measure in measures):
        random = read_suite(suite, with_random_weights(backbone, seed=seed), extraction, cache_dir)
    texts = max((getattr(measure, "token_texts", 0) for measure in measures), default=0)
    paths = {task.name: _token_paths(task, backbone, extraction, texts) for task in suite.tasks} if texts > 0 else {}
    return FurtherPasses(activations, variants, random, paths, backbone.stacks[0], pairs)


def _sides(task: Task) -> tuple[Task, Task]:
    """The first and the second texts of a task of pairs as tasks of their own, without labels."""
    rows = task.splits["test"]
    none = (None,) * len(rows)
    sides = (("first texts", rows.prompts), ("second texts", rows.seconds))
    first, second = (
        replace(task, name=f"{task.name} ({name})", splits={"test": Split(texts, none, rows.targets)})
        for name, texts in sides
    )
    return first, second


def _token_paths(task: Task, backbone: FrozenBackbone, extraction: ExtractionSettings, texts: int) -> dict[str, Tensor]:
    """Entropy and curvature of the tokens of the first test prompts, each prompt in a pass of its own.

    They are of the backbone's first stack and the residual stream. A pass keeps no more than one prompt's tokens.
    """
    found: dict[str, list[Tensor]] = {"prompt_entropy": [], "token_curvature": []}
    tokenized = backbone.tokenize(task.splits["test"].prompts[:texts], max_length=extraction.max_length)
    for ids in tokenized.ids:
        input_ids = torch.as_tensor(ids, dtype=torch.long)[None]
        by_layer = backbone.hidden_states(input_ids, torch.ones_like(input_ids), layers=backbone.layer_spec)
        tokens = torch.stack([states[0].float().cpu() for states in by_layer.values()])
        found["prompt_entropy"].append(prompt_entropy(tokens))
        found["token_curvature"].append(token_curvature(tokens))
    return {name: torch.stack(values, dim=1) for name, values in found.items()}


def _variants_of(task: Task, measures: Iterable[object]) -> dict[str, Task]:
    """Name of a variant → the task with its prompts, named after task and variant."""
    named: dict[str, Task] = {}
    for measure in measures:
        make = getattr(measure, "variants", None)
        for name, variant in (make(task) if make is not None else {}).items():
            named[name] = replace(variant, name=f"{task.name} ({name})")
    return named


def _renamed(read: LabelledActivations, like: LabelledActivations) -> LabelledActivations:
    return LabelledActivations(replace(read.activations, row_ids=like.activations.row_ids), read.targets)
