"""The texts of a suite in numbers: how many there are, and how long they are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from probes.tasks import Split, Task
from probes.values import SPLITS


@dataclass(frozen=True)
class Texts:
    """Some texts in numbers.

    Attributes:
        number: Of texts.
        tokens: Of all together.
        squared: Sum of the squares of their lengths, to which the work of attention is proportional.
        longest: Tokens of the longest.

    >>> Texts.of([3, 1]) + Texts.of([2])
    Texts(number=3, tokens=6, squared=14, longest=3)
    """

    number: int = 0
    tokens: int = 0
    squared: int = 0
    longest: int = 0

    @classmethod
    def of(cls, lengths: Iterable[int]) -> Texts:
        """Of texts of these lengths."""
        known = list(lengths)
        return cls(len(known), sum(known), sum(length * length for length in known), max(known, default=0))

    def __add__(self, other: Texts) -> Texts:
        """Both together."""
        return Texts(
            self.number + other.number,
            self.tokens + other.tokens,
            self.squared + other.squared,
            max(self.longest, other.longest),
        )

    def some(self, number: int | None) -> Texts:
        """So many of them, of average length; all of them if there are fewer, or for `None`."""
        if number is None or number >= self.number:
            return self
        share = number / self.number
        return replace(self, number=number, tokens=round(share * self.tokens), squared=round(share * self.squared))


@dataclass(frozen=True)
class TaskTexts:
    """A task in numbers.

    Attributes:
        name: Of the task.
        cluster: Its cluster, or its name.
        unseen: Whether it is kept out of the tuning mixture.
        classes: Number of classes; 0 for tasks without labels, and of pairs.
        prompts: Split → its prompts; of pairs, both texts.
        answers: Split → tokens of its answers, end tokens included.
    """

    name: str
    cluster: str
    unseen: bool
    classes: int
    prompts: Mapping[str, Texts]
    answers: Mapping[str, int]

    def whole(self, split: str) -> Texts:
        """Prompts with their answers, as a model is tuned on them."""
        texts = self.prompts[split]
        if texts.number == 0:
            return texts
        longer = self.answers[split] / texts.number
        squared = texts.squared + 2 * longer * texts.tokens + texts.number * longer**2
        return Texts(texts.number, texts.tokens + self.answers[split], round(squared), texts.longest + round(longer))


def counted_tasks(tasks: Sequence[Task], lengths: Callable[[Sequence[str]], Sequence[int]]) -> list[TaskTexts]:
    """Tasks of a loaded suite in numbers.

    Args:
        tasks: Of the suite.
        lengths: The number of tokens of each of some texts.
    """
    return [_counted(task, lengths) for task in tasks]


def unique_texts(
    tasks: Sequence[Task], lengths: Callable[[Sequence[str]], Sequence[int]], *, splits: Sequence[str] = SPLITS
) -> Texts:
    """The different texts of a loaded suite: each is read once, in however many tasks and splits it stands."""
    texts = dict.fromkeys(
        text for task in tasks for split in splits if split in task.splits for text in _texts(task.splits[split])
    )
    return Texts.of(lengths(list(texts)))


def assumed_tasks(
    clusters: Mapping[str, Sequence[str]],
    *,
    unseen: Iterable[str],
    rows: Mapping[str, int],
    rows_per_cluster: int | None,
    tokens: Mapping[str, int] | int,
    answer_tokens: Mapping[str, int] | int,
    without_labels: Iterable[str] = (),
) -> list[TaskTexts]:
    """Tasks that cannot be loaded here, by what is assumed of them.

    Args:
        clusters: Cluster → its tasks.
        unseen: Tasks that are kept out of the mixture.
        rows: Split → rows of a task.
        rows_per_cluster: Training rows of a cluster, divided equally between its tasks; `None` for no limit.
        tokens: Tokens of a prompt, for all clusters or for each.
        answer_tokens: Tokens of an answer, likewise.
        without_labels: Clusters whose tasks have no labels.
    """
    found = []
    for cluster, names in clusters.items():
        length = tokens if isinstance(tokens, int) else tokens[cluster]
        answer = answer_tokens if isinstance(answer_tokens, int) else answer_tokens[cluster]
        for name in names:
            number = dict(rows)
            if rows_per_cluster is not None:
                number["train"] = min(number["train"], rows_per_cluster // len(names))
            found.append(
                TaskTexts(
                    name=name,
                    cluster=cluster,
                    unseen=name in set(unseen),
                    classes=0 if cluster in set(without_labels) else 3,
                    prompts={s: Texts(n, n * length, n * length * length, 2 * length) for s, n in number.items()},
                    answers={split: answer * n for split, n in number.items()},
                )
            )
    return found


def _texts(split: Split) -> Sequence[str]:
    """Everything that is read of a split; of pairs, both texts."""
    return (*split.prompts, *split.seconds)


def _counted(task: Task, lengths: Callable[[Sequence[str]], Sequence[int]]) -> TaskTexts:
    splits = {name: task.splits[name] for name in SPLITS if name in task.splits}
    answered = {name: [target for target in split.targets if target] for name, split in splits.items()}
    return TaskTexts(
        name=task.name,
        cluster=task.cluster or task.name,
        unseen=task.unseen,
        classes=(len(task.labels) or 1) if task.has_probes else 0,
        prompts={name: Texts.of(lengths(_texts(split))) for name, split in splits.items()},
        answers={name: sum(lengths(texts)) + len(texts) if texts else 0 for name, texts in answered.items()},
    )
