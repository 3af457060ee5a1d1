"""Audits for nuisances: intervals of raw minus residual scores, and how often a residual of a tag alone looks real."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache, partial

import numpy as np
import torch
from calibration.simulation import Simulation, covered
from torch import Tensor

from probes.analysis import confidence_interval, paired_score_difference
from probes.metrics import Predictions, score_rows
from probes.probe_measures.main_scores import cells_of, main_score_estimates
from probes.probe_measures.nuisances.features import BLOCK_NORM, NuisanceGroup
from probes.probe_measures.nuisances.linear_fit import Labelled, LinearFit, fit_linear
from probes.probe_measures.nuisances.residuals import residuals
from probes.probe_measures.nuisances.strata import within_strata
from probes.probe_measures.transfer import TrainedTask, angle_profile, probe_directions
from probes.seeds import derive_seed
from probes.training import LabelledActivations, ProbeSettings, TaskData, default_trainer, fit_task
from probes.values import Activations, Estimates, Reading

FEATURES = 12
ROWS = {"train": 300, "validation": 200}
POPULATION_ROWS = 40_000
DATA_SETS = 20
TAG_RIGHT = 0.8
"""Share of the rows whose tag tells the label."""
SETTINGS = ProbeSettings(penalties=(0.01,), min_validation_rows=1)

Rows = tuple[Tensor, Tensor, Tensor]
"""Activations `(1, rows, features)`, the tag `(rows, 1)`, labels `(rows,)`."""


def drawn(rows: int, signal: float, seed: int) -> Rows:
    """Activations that hold a tag, and the label itself as strongly as `signal` says."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(0, 2, (rows,), generator=generator)
    tag = torch.where(torch.rand(rows, generator=generator) < TAG_RIGHT, y, 1 - y)
    x = torch.randn(1, rows, FEATURES, generator=generator)
    x[0, :, :3] += 2.0 * tag[:, None] - 1
    x[0, :, 3:6] += signal * (2.0 * y[:, None] - 1)
    return x, BLOCK_NORM**0.5 * (2.0 * tag[:, None] - 1), y


class Audited:
    """A raw and a residual probe, trained on the same rows as the audit trains them."""

    def __init__(self, signal: float, seed: int) -> None:
        self.rows = {split: drawn(count, signal, derive_seed(seed, split)) for split, count in ROWS.items()}
        targets = {split: y for split, (_, _, y) in self.rows.items()}
        self.labelled = Labelled("classification", 2, targets, SETTINGS, seed % 2**31)
        tag = {split: own[None] for split, (_, own, _) in self.rows.items()}
        told = fit_linear(tag, self.labelled, out_of_fold=True).out_of_fold
        assert told is not None
        self.raw: LinearFit = fit_linear({split: x for split, (x, _, _) in self.rows.items()}, self.labelled)
        corrected = self.residuals(self.rows["validation"])
        self.residual = fit_linear(corrected, self.labelled, covariates=told[0])

    def residuals(self, test: Rows) -> dict[str, Tensor]:
        rows = {**self.rows, "test": test}
        group = NuisanceGroup("tag", {split: tag for split, (_, tag, _) in rows.items()})
        return dict(residuals({split: x for split, (x, _, _) in rows.items()}, [group], self.labelled.fold).values)

    def logits(self, test: Rows) -> tuple[Tensor, Tensor]:
        """Of the residual and of the raw probe, each `(1, rows, 2)`."""
        return self.residual.logits(self.residuals(test)["test"]), self.raw.logits(test[0])


@cache
def trained(signal: float, number: int) -> tuple[Audited, float]:
    """Probes, and the true difference of their scores on the population."""
    audited = Audited(signal, derive_seed(number, "nuisances"))
    rows = drawn(POPULATION_ROWS, signal, derive_seed(number, "population"))
    residual, raw = (score_rows("classification", own, rows[2]).values["macro_f1"] for own in audited.logits(rows))
    return audited, float(raw - residual)


def predictions(logits: Tensor, y: Tensor) -> Predictions:
    names = tuple(map(str, range(len(y))))
    facts = {"task": "task", "kind": "classification", "reading": Reading("decoder", "residual", "last")}
    return Predictions.of_logits(logits, y, labels=("no", "yes"), layers=(0,), row_ids=names, **facts)


def interval_right(signal: float, rows: int, seed: int) -> dict[str, np.ndarray]:
    hits = []
    for number in range(DATA_SETS):
        audited, truth = trained(signal, number % 3)
        test = drawn(rows, signal, derive_seed(seed, number))
        residual, raw = (predictions(own, test[2]) for own in audited.logits(test))
        estimates = paired_score_difference(residual, raw, exchanges=2, seed=derive_seed(seed, number) % 2**31)
        assert estimates.interval is not None
        hits.append(covered(*estimates.interval, truth))
    return {"raw minus residual macro_f1": np.concatenate(hits)}


def alarms(seed: int) -> dict[str, np.ndarray]:
    """Whether the residual of a label that a tag alone tells is above chance, with new training rows each time."""
    test = drawn(300, 0.0, derive_seed(seed, "test"))
    residual, _ = Audited(0.0, seed).logits(test)
    draws = {"resamples": 2, "permutations": 200, "seed": seed % 2**31}
    (cell,) = cells_of(main_score_estimates("classification", residual, test[2], **draws))
    return {"p of a residual score": np.array([cell.above_chance])}


def strata_right(rows: int, seed: int) -> dict[str, np.ndarray]:
    """A fixed direction within the two strata of the tag."""

    def within(count: int, own: int, resamples: int) -> Estimates:
        x, tag, y = drawn(count, 0.5, own)
        score = x[..., :6].sum(-1, keepdim=True)
        logits = torch.cat([-score, score], dim=-1)
        draws = {"resamples": resamples, "permutations": 2, "seed": own % 2**31}
        return within_strata("classification", logits, y, (tag[:, 0] > 0).long(), **draws)

    truth = float(within(POPULATION_ROWS, 0, 2).values[0])
    hits = []
    for number in range(DATA_SETS):
        estimates = within(rows, derive_seed(seed, number), 500)
        assert estimates.interval is not None
        hits.append(covered(*estimates.interval, truth))
    return {"within_strata macro_f1": np.concatenate(hits)}


COSINE_ROWS, DEGREES = 300, 60


def trained_task(name: str, degrees: float, seed: int) -> TrainedTask:
    """A task whose label lies along a direction that is turned by an angle, on new training rows."""
    generator = torch.Generator().manual_seed(derive_seed(seed, name))
    direction = torch.zeros(FEATURES)
    direction[0], direction[1] = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    y = torch.arange(COSINE_ROWS) % 2
    x = torch.randn(1, COSINE_ROWS, FEATURES, generator=generator) + 1.2 * (2 * y[:, None] - 1) * direction
    activations = Activations(x, (0,), tuple(map(str, range(COSINE_ROWS))), Reading("decoder", "residual", "last"))
    split = LabelledActivations(activations, y)
    data = TaskData(task=name, kind="classification", labels=("no", "yes"), train=split, validation=split, test=split)
    settings = replace(SETTINGS, controls=0, bootstrap_samples=0, permutations=0, training_sets=0)
    return TrainedTask(data, fit_task(data, settings, default_trainer, 0))


def cosine(seed: int, sets: int) -> Estimates:
    tasks = trained_task("a", 0.0, seed), trained_task("b", DEGREES, seed)
    found = {
        task.data.task: probe_directions(task, SETTINGS, sets=sets, shuffles=0, seed=seed % 2**31) for task in tasks
    }
    return angle_profile(*tasks, directions=found).estimates


@cache
def mean_cosine() -> float:
    """The mean over training sets, which noise pulls below that of the planted angle."""
    return float(np.mean([cosine(derive_seed(number, "mean cosine"), 0).values[0] for number in range(200)]))


def cosine_right(seed: int) -> dict[str, np.ndarray]:
    estimates = cosine(seed, 10)
    assert estimates.errors is not None
    return {"transfer/cosine": covered(*confidence_interval(estimates.values, estimates.errors), mean_cosine())}


SIMULATIONS = [
    *(
        Simulation(
            name=f"raw minus residual, signal {signal}, {rows} rows",
            setting=f"{words}, {rows} test rows",
            right=partial(interval_right, signal, rows),
            short=short,
            long=50,
        )
        for signal, words in ((0.0, "a tag tells 80 % of the labels"), (0.5, "the same, and a feature beside it"))
        for rows, short in ((100, 2), (400, 0))
    ),
    Simulation(
        name="p of a residual score, tag alone",
        setting="a tag tells 80 % of the labels, 300 training and test rows",
        right=alarms,
        rate="false alarms",
        short=0,
        long=600,
    ),
    Simulation(
        name="score within strata",
        setting="two strata of a tag that tells 80 % of the labels, 400 test rows",
        right=partial(strata_right, 400),
        short=2,
        long=50,
    ),
    Simulation(
        name="cosine of directions",
        setting="directions at 60°, 300 training rows of each task, 10 training sets",
        right=cosine_right,
        short=0,
        long=300,
    ),
]
