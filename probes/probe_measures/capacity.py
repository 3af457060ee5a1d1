"""How much a probe must be able to do: one axis from a single feature to a network with hidden layers.

| setting | probe |
|---|---|
| `sparse_k` | linear on k features of the layer |
| `rank_r` | linear on r directions of the layer |
| `linear` | linear: the probe of the task, where it is one |
| `mlp_w` | a hidden layer of w units |

Features are chosen by recursive elimination (Guyon et al. 2002): of the features that remain, the half with the
smallest weights goes, and the probe is solved anew. Weights are compared by their norm over classes, so that any number
of classes is served; all layers are eliminated together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from probes.architectures import LinearProbe, LowRankProbe, MLPProbe
from probes.metrics import MAIN_METRIC, bootstrap_counts, score_rows
from probes.probe_measures.linear_refits import (
    SolvedLayers,
    has_independent_vectors,
    linear_penalties,
    solve_sets,
)
from probes.probe_measures.protocol import ProbedTask, TaskTable
from probes.seeds import derive_seed
from probes.training import fit_task
from probes.training.bank.probe_bank import build_probe
from probes.values import Estimates, LayerProfile

_LOW_RANK_STEP = 0.01
"""Learning rate of low-rank probes: two factors that start small need larger steps than one."""


@dataclass(frozen=True, kw_only=True)
class ProbeCapacity:
    """Test scores by the main metric of probes of growing capacity, `probe_capacity/<setting>` over layers.

    The table `capacity` has all settings at the best layer with their number of parameters, the table
    `sparse_features` the features that sparse probes of the best layer read.

    Attributes:
        sparse: Numbers of features k; those of the layer or more are left out.
        ranks: Ranks; those that limit nothing, `classes − 1` or more, are left out.
        widths: Units of the hidden layer.
        max_epochs: Passes over the training rows at most, for low-rank probes and networks.
    """

    sparse: Sequence[int] = (1, 4, 16, 64)
    ranks: Sequence[int] = (1, 2, 4, 8)
    widths: Sequence[int] = (16, 256)
    max_epochs: int = 50

    def __post_init__(self) -> None:
        for name in ("sparse", "ranks", "widths"):
            if any(number < 1 for number in getattr(self, name)):
                raise ValueError(
                    f"Capacities are numbers of at least 1; got {list(getattr(self, name))}. Set "
                    f"`analysis.probe_measures.capacity.{name}`."
                )

    def __call__(self, probed: ProbedTask) -> Iterator[LayerProfile | TaskTable]:
        """A profile for each setting, and the tables."""
        data, best = probed.data, probed.fit.best_layers
        if best is None or not has_independent_vectors(data):
            return
        found: dict[str, LayerProfile] = {}
        features = eliminate(probed, sorted(self.sparse))
        for count, chosen in features.items():
            found[f"sparse_{count}"] = _of_features(probed, chosen)
        full = full_rank(data.kind, data.num_classes)
        for rank in sorted(rank for rank in self.ranks if rank < full):
            found[f"rank_{rank}"] = self._trained(probed, partial(LowRankProbe, rank=rank), _LOW_RANK_STEP)
        if isinstance(
            build_probe(probed.settings.architecture, data.in_features, data.num_classes, seed=0), LinearProbe
        ):
            found["linear"] = probed.fit.profile(MAIN_METRIC[data.kind])
        for width in sorted(self.widths):
            network = partial(MLPProbe, hidden_features=width)
            found[f"mlp_{width}"] = self._trained(probed, network, probed.settings.learning_rate)
        for setting, profile in found.items():
            if setting != "linear":  # the task's own score is there already
                yield replace(profile, quantity=f"probe_capacity/{setting}", probe="", penalties=())
        yield _table(probed, found)
        yield _feature_table(probed, features)

    def _trained(self, probed: ProbedTask, architecture: Callable[..., Any], learning_rate: float) -> LayerProfile:
        """Scores of probes trained by minibatches; validation rows decide when each stops."""
        settings = replace(
            probed.settings,
            architecture=architecture,
            fit="minibatch",
            penalties=(0.0,),
            learning_rate=learning_rate,
            max_epochs=self.max_epochs,
            controls=0,
            permutations=0,
            training_sets=0,
            min_validation_rows=1,
        )
        data = probed.data
        fit = fit_task(data, settings, probed.trainer, derive_seed(probed.seed, "capacity"))
        profile = fit.profile(MAIN_METRIC[data.kind])
        return replace(profile, estimates=replace(profile.estimates, errors=None), seed=probed.seed)


def full_rank(kind: str, classes: int) -> int:
    """The largest rank that a linear probe can have: classes − 1, or the number of labels; 1 for regression."""
    return {"classification": classes - 1, "multilabel": classes}.get(kind, 1)


def eliminate(probed: ProbedTask, counts: Sequence[int]) -> dict[int, Tensor]:
    """Choose features of every layer by recursive elimination on the training rows.

    A layer keeps the penalty of its probe throughout.

    Args:
        probed: The task.
        counts: How many features to keep, ascending; those that are not fewer than the layer has are left out.

    Returns:
        Number of features → their indices, int64 `(layers, number)`, those with the largest weights first.
    """
    data, width = probed.data, probed.data.in_features
    wanted = [count for count in counts if count < width]
    if not wanted:
        return {}
    sizes = sorted({*wanted, *(2**j for j in range(width.bit_length()) if wanted[0] < 2**j < width)}, reverse=True)
    kept = torch.arange(width).expand(len(data.layers), -1)
    found = {}
    for size in sizes:
        norms = _solved(probed, kept, _weight_norms)
        largest = norms.nan_to_num(0.0).argsort(dim=1, descending=True, stable=True)[:, :size]
        kept = kept.gather(1, largest)
        if size in wanted:
            found[size] = kept
    return dict(sorted(found.items()))


def _weight_norms(solved: SolvedLayers) -> Tensor:
    """Norm over classes of each feature's weights, shape `(layers, features)`."""
    return solved.weights[:, 0, 0].square().sum(1).sqrt()


def _solved(probed: ProbedTask, features: Tensor, reduce: Callable[[SolvedLayers], Tensor]) -> Tensor:
    """Solve the probes of some features `(layers, number)` of each layer, at the penalty of the task's probe."""
    data, penalties = probed.data, linear_penalties(probed.settings)
    middle = len(penalties) // 2
    at = [penalties.index(p) if p in penalties else middle for p in probed.fit.probes.penalties]

    def of_features(values: Tensor) -> Tensor:
        return values.gather(2, features[:, None].expand(-1, values.shape[1], -1))

    return solve_sets(
        data.kind,
        of_features(data.train.activations.values),
        data.train.targets,
        torch.ones(1, len(data.train.targets)),
        apply_to=of_features(data.test.activations.values),
        classes=data.num_classes,
        settings=probed.settings,
        reduce=reduce,
        chosen=torch.tensor(at),
    )


def _of_features(probed: ProbedTask, features: Tensor) -> LayerProfile:
    """Scores of the probes of some features of each layer, with intervals over test rows."""
    data, metric = probed.data, MAIN_METRIC[probed.data.kind]
    logits = _solved(probed, features, lambda solved: solved.logits(0)[:, 0])
    targets, samples = data.test.targets, probed.settings.bootstrap_samples
    seed = derive_seed(probed.seed, "bootstrap", "test")
    counts = bootstrap_counts(len(targets), samples, seed=seed) if samples > 0 else None
    scores = score_rows(data.kind, logits.nan_to_num(), targets, counts, names={metric})
    missing, ends = logits.isnan().flatten(1).any(1).numpy(), scores.interval(metric)
    main = probed.fit.profile(metric)
    return replace(
        main,
        estimates=Estimates(
            np.where(missing, np.nan, scores.values[metric].numpy()),
            len(targets),
            interval=None if ends is None else np.where(missing, np.nan, torch.stack(ends).numpy()),
        ),
    )


def _table(probed: ProbedTask, found: dict[str, LayerProfile]) -> TaskTable:
    """All settings at the best layer, in the order of their capacity."""
    data, metric = probed.data, MAIN_METRIC[probed.data.kind]
    assert probed.fit.best_layers is not None
    best = data.layers.index(probed.fit.best_layers.layer)
    intervals = [profile.estimates.interval for profile in found.values()]
    columns = {
        "probe": list(found),
        "parameters": [_parameters(setting, data.in_features, data.num_classes) for setting in found],
        metric: [float(profile.estimates.values[best]) for profile in found.values()],
        "lower end": [float("nan") if ends is None else float(ends[0, best]) for ends in intervals],
        "upper end": [float("nan") if ends is None else float(ends[1, best]) for ends in intervals],
        "layer": [data.layers[best] for _ in found],
    }
    return TaskTable(name="capacity", task=data.task, reading=data.reading, columns=columns)


def _parameters(setting: str, width: int, classes: int) -> int:
    """Numbers that a probe learns, by the name of its setting."""
    family, _, number = setting.partition("_")
    count = int(number or width)
    if family == "rank":
        return count * (width + classes) + classes
    if family == "mlp":
        return count * (width + 1) + classes * (count + 1)
    return classes * (count + 1)


def _feature_table(probed: ProbedTask, features: dict[int, Tensor]) -> TaskTable:
    data = probed.data
    assert probed.fit.best_layers is not None
    best = data.layers.index(probed.fit.best_layers.layer)
    few = {count: chosen for count, chosen in features.items() if count <= 16}
    columns = {
        "features": list(few),
        "which": [" ".join(map(str, chosen[best].tolist())) for chosen in few.values()],
        "layer": [data.layers[best] for _ in few],
    }
    return TaskTable(name="sparse_features", task=data.task, reading=data.reading, columns=columns)
