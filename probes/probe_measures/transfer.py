"""Does what one task's probes read serve another task? Their scores on its rows, and the angle between directions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from probes.analysis import paired_score_difference
from probes.metrics import MAIN_METRIC, UNITS, permuted_orders
from probes.probe_measures.main_scores import main_score_estimates, over_layers, predictions_of
from probes.seeds import derive_seed
from probes.training import LayerProbes, ProbeSettings, TaskData, TaskProbes, solve_linear
from probes.training.scoring import NO_PROBE
from probes.training.training_sets import half_weights
from probes.values import Estimates, Layer, LayerProfile

ARROW = " → "
"""Stands between the tasks of a pair: the probe of the first on rows of the second."""


@dataclass(frozen=True)
class TrainedTask:
    """A task with its probes, as transfer needs it.

    Attributes:
        data: Activations and targets.
        fit: The task's own probes.
    """

    data: TaskData
    fit: TaskProbes


def share_labels(one: TaskData, other: TaskData) -> bool:
    """Whether probes of one task can predict the labels of the other: same kind, same names of labels."""
    return one.kind == other.kind and set(one.labels) == set(other.labels) and one.layers == other.layers


def transferred_logits(probes: LayerProbes, data: TaskData, *, centred: bool = True) -> Tensor:
    """Logits of one task's probes on another's test rows, in the order of the latter's labels.

    Args:
        probes: Of the first task.
        data: The second task.
        centred: Whether the second task's rows are shifted so that its training rows have the mean of those of the
            first: what all its texts have in common is then no evidence for a class. No labels are used.

    Returns:
        Shape `(layers, rows, classes)`; NaN at layers without a probe.
    """
    values = data.test.activations.values.float()
    if centred and probes.standardiser is not None:
        probed = [data.layers.index(layer) for layer in probes.probed_layers]
        values = values.clone()
        own = data.train.activations.values[probed].float().mean(1, keepdim=True)
        values[probed] += probes.standardiser.mean[:, None] - own
    logits = probes.logits(values)
    if probes.kind == "regression":
        return logits
    return logits[..., [probes.labels.index(label) for label in data.labels]]


def transfer_profiles(
    source: TrainedTask, target: TrainedTask, *, centred: bool, resamples: int, permutations: int, seed: int
) -> list[LayerProfile]:
    """How the source's probes score on the target's test rows: `transfer/<metric>` and `transfer/minus_own_<metric>`.

    Args:
        source: Whose probes.
        target: Whose rows; `share_labels` must hold.
        centred: As in `transferred_logits`.
        resamples: Of the rows, for intervals; 0 for none.
        permutations: Draws of the nulls: of permuted labels for the score, of exchanged predictions for the difference;
            0 for none.
        seed: Of both.
    """
    data, own = target.data, target.fit.predictions
    layers = _shared_layers(source, target)
    if own is None or not layers:
        return []
    places = [data.layers.index(layer) for layer in layers]
    logits = transferred_logits(source.fit.probes, data, centred=centred)[places]
    metric = MAIN_METRIC[data.kind]
    score = main_score_estimates(
        data.kind,
        logits,
        data.test.targets,
        resamples=resamples,
        permutations=permutations,
        seed=seed,
        groups=data.row_groups("test"),
    )
    difference = paired_score_difference(
        own.at_layers(layers),
        predictions_of(data, logits, layers),
        resamples=resamples,
        exchanges=permutations,
        seed=derive_seed(seed, "transfer", source.data.task, data.task),
    )
    return [
        _profile(source, target, name, over_layers(estimates, layers, data.layers, NO_PROBE), UNITS[metric])
        for name, estimates in ((metric, score), (f"minus_own_{metric}", replace(difference, remarks=())))
    ]


@dataclass(frozen=True)
class Directions:
    """What linear probes of one task read, in logits per unit of the activations; of classes, less their mean.

    Attributes:
        own: Of the task's probes, shape `(probed layers, 1, classes, features)`; one class for regression.
        refits: Of probes refitted on halves of the training rows, shape `(probed layers, sets, classes, features)`.
        shuffled: Of probes of shuffled training labels, shape `(probed layers, shuffles, classes, features)`.
    """

    own: Tensor
    refits: Tensor
    shuffled: Tensor


def probe_directions(task: TrainedTask, settings: ProbeSettings, *, sets: int, shuffles: int, seed: int) -> Directions:
    """Directions of a task's linear probes, with what their errors and their null need.

    Of words, halves are of the sentences, and each sentence gets the labels of another.

    Args:
        task: With linear probes.
        settings: How they were trained; further probes keep the penalty of their layer.
        sets: Halves of the training rows.
        shuffles: Of the training labels.
        seed: Of both.
    """
    probes, data = task.fit.probes, task.data
    assert probes.standardiser is not None
    probed = [data.layers.index(layer) for layer in probes.probed_layers]
    rows = probes.standardiser(data.train.activations.values[probed].float())
    targets = data.train.targets
    if data.kind == "regression":
        targets = (targets - probes.target_mean) / probes.target_deviation
    sentences = None if data.sentences is None else data.sentences["train"]
    shuffled_by = derive_seed(seed, "shuffled directions", data.task)
    shuffled = permuted_orders(len(targets), shuffles, seed=shuffled_by, groups=sentences)
    orders = [torch.arange(len(targets))] * sets + list(shuffled)
    row_weights = torch.ones(len(orders), len(targets))
    if sets > 0:
        row_weights[:sets] = half_weights(
            len(targets),
            sets,
            seed=derive_seed(seed, "training sets"),
            sentences=sentences,
            groups=data.groups_of("train"),
        )
    found = [_weights_of(probes)]
    if orders:
        of_layers = [
            solve_linear(
                data.kind,
                layer,
                torch.stack([targets[order] for order in orders]),
                torch.tensor([probes.penalties[place]], dtype=torch.float64),
                classes=data.num_classes,
                row_weights=row_weights,
                tolerance=settings.tolerance,
                max_iterations=settings.max_iterations,
            ).weights[:, 0]
            for layer, place in zip(rows.split(1), probed, strict=True)
        ]
        found.append(torch.cat(of_layers))
    directions = torch.cat(found, dim=1) / probes.standardiser.deviation[:, None, None]
    if data.kind == "classification":  # what is added to the logits of all classes changes no prediction
        directions = directions - directions.mean(2, keepdim=True)
    return Directions(*directions.split([1, sets, shuffles], dim=1))


def angle_profile(source: TrainedTask, target: TrainedTask, *, directions: Mapping[str, Directions]) -> LayerProfile:
    """Cosine between the directions that two tasks' probes read, at every layer: `transfer/cosine`.

    Of several classes or labels it is the mean of the cosines of equal ones; those of classes are taken less the mean
    over classes. Directions are
    compared in deviations of the pooled training rows, so that large dimensions do not decide alone. Errors are over
    training sets (halves of the training rows of both tasks). The null has the direction of one task, and that of the
    other with shuffled labels: directions by chance, which share what all rows have in common.

    Args:
        source: One task.
        target: Another, with the same labels.
        directions: Task → its directions.
    """
    layers = _shared_layers(source, target)
    scale = _pooled_deviation(source.data, target.data, layers)[:, None, None]
    one, other = (_comparable(task, directions[task.data.task], layers, target, scale) for task in (source, target))
    own = _cosines(one.own, other.own)[:, 0]
    null = torch.cat([_cosines(one.own, other.shuffled), _cosines(one.shuffled, other.own)], dim=1).T
    refits = _cosines(one.refits, other.refits).T
    errors = None if len(refits) < 2 else ((refits - refits.mean(0)) / (len(refits) - 1) ** 0.5).numpy()
    estimates = Estimates(
        own.numpy(),
        len(target.data.train.targets),
        errors=errors,
        null=null.numpy() if len(null) else None,
        alternative="two-sided",
        interval_over="training sets",
    )
    return _profile(source, target, "cosine", over_layers(estimates, layers, target.data.layers, NO_PROBE), "cosine")


def _comparable(
    task: TrainedTask, directions: Directions, layers: Sequence[Layer], like: TrainedTask, scale: Tensor
) -> Directions:
    """Unit directions at some layers, in the order of another task's labels, in scaled coordinates."""
    places = [task.fit.probes.probed_layers.index(layer) for layer in layers]
    order = [task.data.labels.index(label) for label in like.data.labels] or [0]
    parts = (directions.own, directions.refits, directions.shuffled)
    return Directions(*(_unit(part[places][:, :, order] * scale) for part in parts))


def _cosines(one: Tensor, other: Tensor) -> Tensor:
    """Mean cosine over classes, float64 `(layers, sets)`, of unit directions `(layers, sets, classes, features)`."""
    return (one * other).sum(-1).mean(-1).double()


def _weights_of(probes: LayerProbes) -> Tensor:
    """Weights of the probes, `(probed layers, 1, classes, features)`: logits of unit vectors less those of zero."""
    assert probes.bank is not None
    features = probes.in_features
    with torch.no_grad():
        units = torch.cat([torch.zeros(1, features), torch.eye(features)]).expand(len(probes.probed_layers), -1, -1)
        logits = probes.bank(units)  # (layers, 1, 1 + features, classes)
    return (logits[:, :, 1:] - logits[:, :, :1]).mT


def _pooled_deviation(one: TaskData, other: TaskData, layers: Sequence[Layer]) -> Tensor:
    """Deviation of every feature within the training rows of both tasks, `(layers, features)`."""
    variances = []
    for data in (one, other):
        places = [data.layers.index(layer) for layer in layers]
        variances.append(data.train.activations.values[places].float().var(1, correction=0))
    return torch.stack(variances).mean(0).sqrt()


def _unit(directions: Tensor) -> Tensor:
    return directions / directions.norm(dim=-1, keepdim=True).clamp_min(torch.finfo(directions.dtype).tiny)


def _shared_layers(source: TrainedTask, target: TrainedTask) -> tuple[Layer, ...]:
    """The layers at which both tasks have probes."""
    own = source.fit.probes.probed_layers
    return tuple(layer for layer in target.fit.probes.probed_layers if layer in own)


def _profile(source: TrainedTask, target: TrainedTask, name: str, estimates: Estimates, unit: str) -> LayerProfile:
    data = target.data
    return LayerProfile(
        quantity=f"transfer/{name}",
        unit=unit,
        estimates=estimates,
        layers=data.layers,
        task=f"{source.data.task}{ARROW}{data.task}",
        reading=data.reading,
    )
