"""Tasks whose label is planted in a tag of the prompt, in the activations, or in both, with their probes."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import replace

import torch

from probes.probe_measures import ProbedTask
from probes.tasks import Split, Task
from probes.training import LabelledActivations, ProbeSettings, TaskData, default_trainer, fit_task
from probes.values import SPLITS, Activations, LayerProfile, Reading

READING = Reading("decoder", "residual", "last")
SETTINGS = ProbeSettings(
    bootstrap_samples=100, permutations=100, min_validation_rows=50, training_sets=0, penalties=(0.01, 0.1, 1.0)
)
SIZES = {"train": 300, "validation": 100, "test": 200}
WORDS = ("ash", "birch", "cedar", "elm", "fir", "hazel", "larch", "maple", "oak", "pine", "rowan", "willow")
FEATURES = 40


def planted(
    *, label_is_tag: float = 0.5, tag: float = 0.0, signal: float = 0.0, seed: int = 0, columns: bool = False
) -> ProbedTask:
    """Two layers, of which the second holds the tag and a signal of the label; a prompt is a tag and random words.

    Args:
        label_is_tag: Share of the rows whose tag tells the label.
        tag: How strongly activations hold the tag, in deviations of a feature, on five features.
        signal: How strongly they hold the label itself, on five others.
        seed: Of everything.
        columns: Whether the tag stands in a column of the rows, not in the prompt.
    """
    draw = random.Random(seed)
    generator = torch.Generator().manual_seed(seed)
    splits, data = {}, {}
    for split, rows in SIZES.items():
        labels = [i % 2 for i in range(rows)]
        tags = [label if draw.random() < label_is_tag else 1 - label for label in labels]
        names = tuple("ab"[own] for own in tags)
        texts = [" ".join(draw.choices(WORDS, k=draw.randint(4, 9))) for _ in range(rows)]
        prompts = texts if columns else [f"{name} {text}" for name, text in zip(names, texts, strict=True)]
        of_rows = {"source": names} if columns else {}
        splits[split] = Split(tuple(prompts), tuple(labels), ("",) * rows, columns=of_rows)
        values = torch.randn(2, rows, FEATURES, generator=generator)
        values[1, :, :5] += tag * (2 * torch.tensor(tags).float() - 1)[:, None]
        values[1, :, 5:10] += signal * (2 * torch.tensor(labels).float() - 1)[:, None]
        ids = tuple(f"{split}/{i}" for i in range(rows))
        data[split] = LabelledActivations(Activations(values, (0, 1), ids, READING), torch.tensor(labels))
    task = Task("planted", "classification", ("no", "yes"), splits)
    return probed(task, TaskData(task="planted", kind="classification", labels=("no", "yes"), **data))


def probed(task: Task, data: TaskData, settings: ProbeSettings = SETTINGS) -> ProbedTask:
    """A task with the probes that are trained on it."""
    fit = fit_task(data, settings, default_trainer, 0)
    counts = {split: [len(prompt.split()) for prompt in task.splits[split].prompts] for split in SPLITS}
    return ProbedTask(
        task=task, data=data, fit=fit, settings=settings, trainer=default_trainer, seed=0, token_counts=counts
    )


def with_targets(
    own: ProbedTask, kind: str, targets: Mapping[str, torch.Tensor], labels: tuple[str, ...]
) -> ProbedTask:
    """The same rows with other targets."""
    splits = {split: LabelledActivations(getattr(own.data, split).activations, targets[split]) for split in SPLITS}
    data = TaskData(task="planted", kind=kind, labels=labels, **splits)
    rows = {split: replace(own.task.splits[split], labels=tuple(targets[split].tolist())) for split in SPLITS}
    return probed(Task("planted", kind, labels, rows), data)


def by_quantity(profiles) -> dict[str, LayerProfile]:
    return {profile.quantity.removeprefix("nuisance/"): profile for profile in profiles}
