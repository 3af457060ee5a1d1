"""What the experimental model of a study is made of, and which tasks it never sees."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from probes.tasks import Suite


@dataclass(frozen=True, kw_only=True)
class MixtureSettings:
    """How the experimental model is made, and which controls are tuned again.

    Attributes:
        experimental: `tuned` on the mixture of all seen tasks, or `merged` from their controls by adding them up.
        merge_coefficient: What the sum of the controls' changes is multiplied by (merged only).
        rows_per_cluster: Training rows of one cluster in the mixture at most.
        replicate_tasks: How many tasks, the first of the suite, have their controls tuned with other seeds too.
        replicate_seeds: How many other seeds.
        unseen: Tasks kept out of the mixture, by name or cluster; `None`: those the suite marks.
    """

    experimental: str = "tuned"
    merge_coefficient: float = 0.4
    rows_per_cluster: int = 50_000
    replicate_tasks: int = 2
    replicate_seeds: int = 1
    unseen: Sequence[str] | None = None

    def __post_init__(self) -> None:
        if self.experimental not in {"tuned", "merged"}:
            raise ValueError(
                f"Unknown experimental model '{self.experimental}'. Set `study.mixture.experimental` to tuned or "
                "merged."
            )
        for key, least in (("rows_per_cluster", 1), ("replicate_tasks", 0), ("replicate_seeds", 0)):
            if getattr(self, key) < least:
                raise ValueError(
                    f"`study.mixture.{key}` wants a whole number from {least} up; got {getattr(self, key)}."
                )


def mark_unseen(suite: Suite, unseen: Sequence[str] | None) -> Suite:
    """The suite with other tasks marked as kept out of the mixture.

    Raises:
        ValueError: A name is neither a task nor a cluster.
    """
    if unseen is None:
        return suite
    clusters = dict.fromkeys(task.cluster for task in suite.tasks if task.cluster)
    unknown = sorted(set(unseen) - {task.name for task in suite.tasks} - set(clusters))
    if unknown:
        raise ValueError(
            f"Suite '{suite.name}' has no task or cluster {', '.join(unknown)}. Set `study.mixture.unseen` among "
            f"{', '.join(task.name for task in suite.tasks)} and {', '.join(clusters)}."
        )
    marked = [replace(task, unseen=task.name in unseen or task.cluster in unseen) for task in suite.tasks]
    return Suite(suite.name, tuple(marked))
