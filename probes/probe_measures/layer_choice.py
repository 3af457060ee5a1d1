"""Which layers hold a task's answer, as a distribution instead of one best layer.

One bank holds, for some layers l, a probe that reads a learned mixture of layers 0 to l (`ScalarMixProbe`). The mixture
of all layers gives weights and their centre of gravity; how much each layer adds to the mixtures below it gives the
expected layer (Tenney, Das and Pavlick 2019). Further probes in the bank are trained on halves of the rows: how the
weights vary between these is how they would vary with other training rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from probes.analysis import paired_score_difference
from probes.architectures import ScalarMixProbe
from probes.metrics import MAIN_METRIC, UNITS, bootstrap_counts, errors_of_draws, majority_logits, score_rows
from probes.metrics.scores import Scores
from probes.probe_measures.linear_refits import SolvedLayers, has_independent_vectors, linear_penalties, solve_sets
from probes.probe_measures.main_scores import predictions_of
from probes.probe_measures.protocol import ProbedTask
from probes.seeds import derive_seed
from probes.training.bank.probe_bank import ProbeBank
from probes.training.data_module import Rows
from probes.training.selection import fold_of_rows, refit_rows
from probes.training.train_bank import BankSpec, TrainedBank, train_bank
from probes.training.training_sets import half_weights
from probes.values import Estimates, Layer, LayerProfile

_STEP = 0.1
"""How far a step of Adam moves a logit, at most, if features are independent, and the score of a layer."""
_BATCH_ROWS = 512
"""Rows per step."""
_RESAMPLES = 200
"""Resamples, at least, and exchanges behind the gain of the concatenation."""
_PATIENCE = 10
"""Epochs without a lower validation loss after which a mixture stops."""


@dataclass(frozen=True, kw_only=True)
class LayerChoice:
    """Scalar mixtures of the layers, and a linear probe on all of them side by side.

    Over layers: `scalar_mix_weight`, the weight of each layer in the mixture of all, and `score_up_to/<main metric>`,
    the test score of the mixture of the layers up to this one. For the task: `layer_choice/centre_of_gravity` and
    `layer_choice/expected_layer`, in numbers of layers, `layer_choice/concatenation`, the main metric of the probe on
    all layers, and `layer_choice/concatenation_gain`, what it gains over the best layer's. Their means over tasks have
    intervals over tasks.

    Attributes:
        depths: Evenly spaced layers, first and last among them, up to which a mixture is trained.
        halves: Halves of the training rows on which the mixture is trained again; 0: weights have no interval.
        max_epochs: Passes over the training rows at most.
        concatenate: Whether to solve the probe on all layers.
    """

    depths: int = 12
    halves: int = 8
    max_epochs: int = 60
    concatenate: bool = True

    def __call__(self, probed: ProbedTask) -> Iterator[LayerProfile]:
        """Profiles over layers, and numbers of the task."""
        if probed.fit.best_layers is None or not has_independent_vectors(probed.data):
            return
        yield from self._mixtures(probed)
        if self.concatenate:
            yield from concatenation(probed)

    def _mixtures(self, probed: ProbedTask) -> Iterator[LayerProfile]:
        data, depths = probed.data, evenly_spaced(len(probed.data.layers), self.depths)
        trained = train_mixtures(probed, depths, halves=self.halves, max_epochs=self.max_epochs)
        weights = mixture_weights(trained.bank)[len(depths) - 1 :]  # of all rows, then of halves
        positions = torch.tensor(layer_positions(data.layers), dtype=torch.float64)
        place: dict[str, Any] = {"task": data.task, "reading": data.reading, "seed": probed.seed}
        over_sets = {"n": len(data.train.targets), "interval_over": "training sets"}
        yield LayerProfile(
            quantity="scalar_mix_weight",
            unit="share",
            layers=data.layers,
            estimates=Estimates(weights[0].numpy(), errors=_errors_over_halves(weights), **over_sets),
            **place,
        )
        centres = (weights @ positions)[:, None]
        yield LayerProfile(
            quantity="layer_choice/centre_of_gravity",
            unit="layer",
            layers=(None,),
            estimates=Estimates(centres[0].numpy(), errors=_errors_over_halves(centres), **over_sets),
            **place,
        )
        yield from mixtures_up_to(probed, trained, depths)


def mixtures_up_to(probed: ProbedTask, trained: TrainedBank, depths: list[int]) -> Iterator[LayerProfile]:
    """Scores of the mixtures up to some layers, and the expected layer that follows from them."""
    data = probed.data
    values = data.test.activations.values.transpose(0, 1).flatten(1)[None]
    logits = trained.logits(values)[0, 0, : len(depths)]  # (depths, rows, classes)
    scores = _scores(probed, logits)
    metric = MAIN_METRIC[data.kind]
    yield _score_profile(probed, scores, f"score_up_to/{metric}", data.layers, at=depths)
    positions = segment_positions(layer_positions(data.layers), depths)
    expected = expected_layer(scores.values[metric], positions)[None]
    draws = expected_layer(scores.draws[metric], positions)[:, None] if scores.draws else None
    rows = len(data.test.targets)
    errors = None if draws is None else errors_of_draws(draws, units=rows).numpy()
    gain = scores.values[metric][-1] - scores.values[metric][0]
    spread = None if not scores.draws else (scores.draws[metric][:, -1] - scores.draws[metric][:, 0]).std()
    clear = spread is not None and gain > 2 * spread
    yield LayerProfile(
        quantity="layer_choice/expected_layer",
        unit="layer",
        task=data.task,
        reading=data.reading,
        seed=probed.seed,
        layers=(None,),
        estimates=Estimates(
            np.where(clear, expected.numpy(), np.nan),
            rows,
            errors=errors if clear else None,
            note="the mixture of all layers is not clearly better than the first layer alone",
            freedom=() if errors is None else ((len(errors), rows - 1),),
        ),
    )


def train_mixtures(probed: ProbedTask, depths: list[int], *, halves: int, max_epochs: int) -> TrainedBank:
    """One bank of mixtures: of the layers up to each depth, then of all layers on each half of the rows.

    All start from the same probe. Validation rows decide when each stops.

    Args:
        probed: The task.
        depths: Indices of layers up to which mixtures are trained, the last layer among them.
        halves: Number of halves.
        max_epochs: Passes over the training rows at most.

    Returns:
        A bank of one "layer" with `depths + halves` replicas.
    """
    data = probed.data
    learning_rate = _STEP / data.in_features**0.5
    settings = replace(
        probed.settings,
        architecture=partial(ScalarMixProbe, layers=len(data.layers), rate=_STEP / learning_rate),
        fit="minibatch",
        penalties=(0.0,),
        class_weights=None,
        learning_rate=learning_rate,
        patience=_PATIENCE,
        batch_size=_BATCH_ROWS,
        max_epochs=max_epochs,
    )

    def prepare(bank: ProbeBank) -> None:
        with torch.no_grad():
            for parameter in bank.parameters():
                parameter.copy_(parameter[:1].expand_as(parameter))
            scores = cast("Tensor", bank.scores)
            for number, up_to in enumerate(depths):
                scores[number, up_to + 1 :] = -torch.inf

    seed = derive_seed(probed.seed, "mixtures")
    spec = BankSpec(data, ("mixture",), data.num_classes, False, settings, probed.trainer, seed, prepare)
    of_train = replace(_side_by_side(data.train, 1), groups=data.groups_of("train"))
    train, validation = refit_rows(of_train, _side_by_side(data.validation, 1), spec)
    groups = train.groups
    train, validation = (_repeated(rows, len(depths) + halves) for rows in (train, validation))
    if halves > 0:
        train.weights[len(depths) :] = half_weights(len(train), halves, seed=derive_seed(seed, "halves"), groups=groups)
    return train_bank(train, validation, spec)


def mixture_weights(bank: ProbeBank) -> Tensor:
    """Weights of the layers in each mixture of a bank, float64, shape `(replicas, layers)`."""
    probe = cast("ScalarMixProbe", bank.probe)
    return (probe.rate * cast("Tensor", bank.scores).detach().double()).softmax(-1)


def evenly_spaced(layers: int, count: int) -> list[int]:
    """Indices of so many layers, the first and the last among them; all if there are no more.

    >>> evenly_spaced(31, 4), evenly_spaced(3, 12)
    ([0, 10, 20, 30], [0, 1, 2])
    """
    return sorted({round(i) for i in np.linspace(0, layers - 1, min(max(count, 2), layers)).tolist()})


def segment_positions(positions: list[float], depths: list[int]) -> Tensor:
    """Mean position of the layers that each depth after the first adds, shape `(depths - 1,)`.

    >>> segment_positions([0.0, 1.0, 2.0, 3.0, 4.0], [0, 1, 4]).tolist()
    [1.0, 3.0]
    """
    pairs = pairwise(depths)
    return torch.tensor([float(np.mean(positions[low + 1 : high + 1])) for low, high in pairs], dtype=torch.float64)


def expected_layer(scores: Tensor, positions: Tensor) -> Tensor:
    """Σ p Δ / Σ Δ over the depths after the first, where Δ is what their layers add to the score of those before.

    Args:
        scores: Of mixtures up to each depth, shape `(..., depths)`.
        positions: Mean position of the layers that each adds, shape `(depths - 1,)`.

    Source:
        Tenney, Das and Pavlick 2019, "BERT rediscovers the classical NLP pipeline".

    >>> expected_layer(torch.tensor([0.5, 0.5, 0.75, 1.0]), torch.tensor([1.0, 2.0, 3.0])).item()
    2.5
    """
    added = scores.diff(dim=-1)
    return (added * positions).sum(-1) / added.sum(-1)


def layer_positions(layers: tuple[Layer, ...]) -> list[float]:
    """Number of each layer; `final` is the one after the largest."""
    numbers = [layer for layer in layers if isinstance(layer, int)]
    return [float(layer) if isinstance(layer, int) else max(numbers, default=-1) + 1.0 for layer in layers]


def concatenation(probed: ProbedTask) -> Iterator[LayerProfile]:
    """The main metric of a linear probe on all layers side by side, and what it gains over the best layer's probe.

    Held-out rows choose its penalty.
    """
    data, metric = probed.data, MAIN_METRIC[probed.data.kind]
    values, validation, test = (
        split.activations.values.transpose(0, 1).flatten(1)[None] for split in (data.train, data.validation, data.test)
    )
    known, targets = torch.cat([values, validation], dim=1), torch.cat([data.train.targets, data.validation.targets])
    rows, folds = values.shape[1], probed.settings.folds
    groups = data.groups_of("train", "validation")
    fold = fold_of_rows(data.kind, targets, folds, seed=derive_seed(probed.seed, "concatenation"), groups=groups)
    in_train = (torch.arange(len(targets)) < rows).float()
    weights = torch.stack([(fold != number).float() for number in range(folds)] + [in_train])
    # From the largest penalty down, as `argmax` returns the first of equal scores.
    order = torch.tensor(linear_penalties(probed.settings)).argsort(descending=True)

    def reduce(solved: SolvedLayers) -> Tensor:
        parts = [((fold == number).nonzero()[:, 0], number) for number in range(folds)]
        held_out = torch.cat([solved.logits(number, at)[0] for at, number in parts], dim=1)
        held_targets = torch.cat([targets[at] for at, _ in parts])
        scores = score_rows(data.kind, held_out, held_targets, names={metric}).values[metric].nan_to_num(-torch.inf)
        best = order[scores[order].argmax()]
        return solved.logits(folds, slice(len(targets), None))[:, best]

    logits = solve_sets(
        data.kind,
        known,
        targets,
        weights,
        apply_to=torch.cat([known, test], dim=1),
        classes=data.num_classes,
        settings=probed.settings,
        reduce=reduce,
        # n layers' features in place of one's: dividing by √n leaves the meaning of a penalty
        scale=len(data.layers) ** -0.5,
    )
    score = _score_profile(probed, _scores(probed, logits), "layer_choice/concatenation", (None,))
    yield score
    own, best = probed.fit.predictions, probed.fit.best_layers
    assert own is not None
    assert best is not None
    gain = paired_score_difference(
        own.at_layers([best.layer]),
        predictions_of(data, logits, (best.layer,)),
        resamples=max(probed.settings.bootstrap_samples, _RESAMPLES),
        exchanges=_RESAMPLES,
        seed=derive_seed(probed.seed, "concatenation"),
    )
    gain = replace(gain, remarks=(f"over the probe of layer {best.layer}",))
    yield replace(score, quantity="layer_choice/concatenation_gain", estimates=gain)


def _scores(probed: ProbedTask, logits: Tensor) -> Scores:
    """Main metric of logits `(probes, rows, classes)` on the test rows, with the resamples of the reported scores."""
    data, samples = probed.data, probed.settings.bootstrap_samples
    targets = data.test.targets
    seed = derive_seed(probed.seed, "bootstrap", "test")
    counts = bootstrap_counts(len(targets), samples, seed=seed) if samples > 0 else None
    return score_rows(data.kind, logits, targets, counts, names={MAIN_METRIC[data.kind]})


def _score_profile(
    probed: ProbedTask,
    scores: Scores,
    quantity: str,
    layers: tuple[Layer | None, ...],
    *,
    at: list[int] | None = None,
) -> LayerProfile:
    """A profile of the main metric; with `at`, the scores are those of the layers with these indices."""
    data, metric = probed.data, MAIN_METRIC[probed.data.kind]
    ends = scores.interval(metric)
    values, interval = scores.values[metric].numpy(), None if ends is None else torch.stack(ends).numpy()
    if at is not None:
        values = _spread(values, len(layers), at)
        interval = None if interval is None else _spread(interval, len(layers), at)
    constant = majority_logits(data.kind, data.train.targets, len(data.test.targets), classes=data.num_classes)
    majority = score_rows(data.kind, constant, data.test.targets, names={metric}).values[metric]
    return LayerProfile(
        quantity=quantity,
        unit=UNITS[metric],
        layers=layers,
        task=data.task,
        reading=data.reading,
        seed=probed.seed,
        estimates=Estimates(
            values,
            len(data.test.targets),
            interval=interval,
            note="measured at some layers only",
            remarks=(f"majority baseline {majority.item():.3f}",) * len(layers),
        ),
    )


def _spread(values: np.ndarray, layers: int, at: list[int]) -> np.ndarray:
    spread = np.full((*values.shape[:-1], layers), np.nan)
    spread[..., at] = values
    return spread


def _errors_over_halves(values: Tensor) -> np.ndarray | None:
    """Errors of the first entry `(halves, ...)`, from entries `(1 + halves, ...)` of which the others are of halves."""
    halves = values[1:]
    if len(halves) < 2:
        return None
    return ((halves - halves.mean(0)) / (len(halves) - 1) ** 0.5).numpy()


def _side_by_side(split: Any, replicas: int) -> Rows:
    """Rows of one layer that holds all layers' features, from a split of a task."""
    values = split.activations.values.transpose(0, 1).flatten(1)[None]
    targets = split.targets[None]
    return _repeated(Rows(values, targets, torch.ones(targets.shape[:2])), replicas)


def _repeated(rows: Rows, replicas: int) -> Rows:
    targets = rows.targets[:1].expand(replicas, *rows.targets.shape[1:])
    return Rows(rows.values, targets, torch.ones(replicas, len(rows)))
