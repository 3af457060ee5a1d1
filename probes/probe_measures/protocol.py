"""What a measure of probes is given, and what it returns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor

from probes.tasks import Task
from probes.trainers import TrainerFactory
from probes.training import ProbeSettings, TaskData, TaskProbes
from probes.values import Layer, LayerProfile, Reading


@dataclass(frozen=True, kw_only=True)
class ProbedTask:
    """One task at one reading, with the probes that were trained on it.

    Attributes:
        task: The examples; row i of a split is row i of its activations.
        data: Activations and targets of all splits.
        fit: The chosen probe of each layer, its scores and its predictions.
        settings: How probes are trained.
        trainer: Makes the Lightning trainer of a fit.
        seed: Decides every random choice.
        token_counts: Split → number of tokens of each row; empty if not known.
        variants: Name → the same rows with other prompts, of all measures that ask for some; a study may load them
            when they are looked up.
        random_weights: The same rows in the same architecture with random weights; `None` if no measure asks for it.
        token_paths: `prompt_entropy` and `token_curvature` of some test prompts in the residual stream, shape
            `(layers, texts)` each; empty for readings of anything else.
    """

    task: Task
    data: TaskData
    fit: TaskProbes
    settings: ProbeSettings
    trainer: TrainerFactory
    seed: int
    token_counts: Mapping[str, Sequence[int]] = field(default_factory=dict)
    variants: Mapping[str, TaskData] = field(default_factory=dict)
    random_weights: TaskData | None = None
    token_paths: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class TextPairs:
    """A task of pairs of texts at one reading.

    Attributes:
        task: Its name.
        reading: Stack, site and pooling.
        layers: Names of the layers.
        first: Activations of the first texts, shape `(layers, pairs, features)`.
        second: Of the second texts, same shape.
        first_texts: The texts.
        second_texts: The texts.
        gold: How alike the texts of each pair are, shape `(pairs,)`.
        probed: The main test scores of all probed tasks at this reading, over the same layers.
        seed: Decides every random choice.
    """

    task: str
    reading: Reading
    layers: tuple[Layer, ...]
    first: Tensor
    second: Tensor
    first_texts: Sequence[str]
    second_texts: Sequence[str]
    gold: Tensor
    probed: Sequence[LayerProfile]
    seed: int


@dataclass(frozen=True, kw_only=True)
class TaskTable:
    """What a measure says of single rows, classes or bins of a task: a file of its own beside the profiles.

    The page of a run shows those of at most 8 columns and 160 rows, and of long ones with a column `layer` the rows of
    the best layer.

    Attributes:
        name: Names the table, such as `per_class`; a folder of the run.
        task: Name of the task.
        reading: Stack, site and pooling.
        columns: Heading → texts or numbers, all columns of one length.
    """

    name: str
    task: str
    reading: Reading
    columns: Mapping[str, Sequence[str | int | float]]


def refuse_fewer(settings: object, key: str, **least: int) -> None:
    """Refuse numbers that a measure cannot do with.

    Args:
        settings: Of the measure.
        key: Of their node in the config, such as `analysis.probe_measures.spans`.
        least: Name of a setting → the least that it may be.

    Raises:
        ValueError: A setting is less.
    """
    for name, number in least.items():
        if getattr(settings, name) < number:
            raise ValueError(f"`{key}.{name}` must be at least {number}; got {getattr(settings, name)}.")


class ProbeMeasure(Protocol):
    """A quantity, or several, that need the probes of a task; a config names them under `analysis.probe_measures`.

    A measure that needs more than the activations of the prompts, or certain tasks, says so by further members, which
    the study looks at before it reads the suite:

    - `check(tasks: Sequence[Task])`: raises a `ValueError` if its settings do not suit the tasks;
    - `variants(task) -> Mapping[str, Task]`: the same rows with other prompts, by names that no other measure uses;
      their activations come in `ProbedTask.variants`, from the same pass;
    - `random_weights = True`: activations of the same architecture with random weights, in `ProbedTask.random_weights`;
    - `token_texts`, a number: entropy and curvature of the tokens of so many test prompts, in `ProbedTask.token_paths`,
      which takes a pass of its own for each;
    - `of_pairs(pairs: TextPairs) -> Iterable[LayerProfile]`: what it says of each task of pairs of texts.
    """

    def __call__(self, probed: ProbedTask) -> Iterable[LayerProfile | TaskTable]:
        """Profiles over the layers of `probed.data`, and tables.

        A layer that cannot be measured is NaN, and the profile's note says why; a measure that does not suit the kind
        of task returns nothing.
        """
        ...
