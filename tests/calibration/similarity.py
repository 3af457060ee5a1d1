"""CKA and other similarities: intervals against the population, and p values where nothing is related."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial

import numpy as np
import torch
from calibration.simulation import Simulation, covered
from torch import Tensor

from probes.analysis import (
    LabelCKA,
    LayerTable,
    ReferenceCKA,
    RowMeasure,
    TaskRows,
    interval_of,
    linear_cka,
    neighbour_overlap,
    procrustes_similarity,
    rbf_cka,
    rsa,
    svcca,
    tuning_gain,
)
from probes.analysis.significance import Tail
from probes.values import SIGNIFICANCE_LEVEL, Estimates, LayerProfile, Reading

READING = Reading("decoder", "residual", "last")
FEATURES = 24


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def decaying(features: int = FEATURES) -> Tensor:
    """Deviations of features, from 1 down to a third, as a spectrum that is neither flat nor one direction."""
    return torch.logspace(0, -0.5, features)


def profile(estimates: Estimates, *, task: str = "task", quantity: str = "quantity") -> LayerProfile:
    layers = tuple(range(len(estimates.values)))
    return LayerProfile(quantity=quantity, unit="", task=task, reading=READING, layers=layers, estimates=estimates)


# Label CKA -----------------------------------------------------------------------------------------------------------


def labelled_rows(rows: int, classes: int, signal: float, *, seed: int, layers: int = 1) -> tuple[Tensor, Tensor]:
    """Activations `(layers, rows, features)` around class means, and labels."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (rows,), generator=generator)
    x = torch.randn(layers, rows, FEATURES, generator=generator) * decaying()
    return x + signal * class_means(classes)[labels], labels


@cache
def class_means(classes: int) -> Tensor:
    return normal(classes, FEATURES, seed=classes) * decaying()


def label_cka_of_population(classes: int, signal: float) -> float:
    """‖Σ_xy‖² / (‖Σ_xx‖ ‖Σ_yy‖), Frobenius, of equally frequent classes."""
    about_mean = signal * (class_means(classes) - class_means(classes).mean(0)).double()
    of_labels = torch.eye(classes).double() / classes - 1 / classes**2
    between = about_mean.T @ (torch.eye(classes).double() / classes)  # E[x yᵀ] of one-hot y
    of_x = torch.diag(decaying().double() ** 2) + about_mean.T @ about_mean / classes
    return float(between.square().sum() / (of_x.norm() * of_labels.norm()))


def label_cka_right(rows: int, classes: int, signal: float, seed: int) -> dict[str, np.ndarray]:
    truth, hits = label_cka_of_population(classes, signal), []
    for number in range(50):
        x, labels = labelled_rows(rows, classes, signal, seed=seed // 2 + number)
        hits.append(covered(*interval_of(profile(LabelCKA(permutations=0)(TaskRows(x, labels)))), truth))
    return {"label_cka": np.concatenate(hits)}


def label_cka_alarms(rows: int, classes: int, permutations: int, seed: int) -> dict[str, np.ndarray]:
    p = []
    for number in range(20):
        x, labels = labelled_rows(rows, classes, 0.0, seed=seed // 2 + number)
        table = LayerTable()
        table.add([profile(LabelCKA(permutations=permutations)(TaskRows(x, labels)), quantity="label_cka")])
        p.append(table.findings().profiles[0].estimates.p)
    return {"p of label_cka, one cell": np.concatenate(p) <= SIGNIFICANCE_LEVEL}


def correlated_layers(layers: int, rows: int, features: int, correlation: float, generator: torch.Generator) -> Tensor:
    """Layers that each keep `correlation` of the one before, as residual streams do."""
    x = torch.randn(layers, rows, features, generator=generator)
    for layer in range(1, layers):
        x[layer] = correlation * x[layer - 1] + (1 - correlation**2) ** 0.5 * x[layer]
    return x


def family_wise_alarms(
    correlation: float, tail: Tail, permutations: int, seed: int, *, tasks: int = 14, layers: int = 31, rows: int = 48
) -> dict[str, np.ndarray]:
    """Whether any cell of a heatmap is significant, of random labels."""
    generator = torch.Generator().manual_seed(seed)
    table = LayerTable(tail=tail)
    for task in range(tasks):
        x = correlated_layers(layers, rows, 6, correlation, generator)
        estimates = LabelCKA(permutations=permutations, seed=int(torch.randint(2**31, (1,), generator=generator)))(
            TaskRows(x, torch.randint(2, (rows,), generator=generator))
        )
        table.add([profile(estimates, task=str(task), quantity="label_cka")])
    p = np.concatenate([found.estimates.p for found in table.findings().profiles])
    return {"p of label_cka, any cell": np.array([np.nanmin(p) <= SIGNIFICANCE_LEVEL])}


# CKA of two models ---------------------------------------------------------------------------------------------------


def two_models(rows: int, share: float, *, seed: int, layers: int = 50) -> tuple[Tensor, Tensor]:
    """Independent data sets, as layers: activations of a model, and of one that shares a part of them."""
    x = normal(layers, rows, FEATURES, seed=seed) * decaying()
    noise = normal(layers, rows, FEATURES, seed=seed + 1) * decaying()
    return x, share * x @ mixing() + (1 - share) * noise


@cache
def mixing() -> Tensor:
    return normal(FEATURES, FEATURES, seed=1) / FEATURES**0.5


def cka_of_population(share: float) -> float:
    of_x = torch.diag(decaying().double() ** 2)
    between = share * of_x @ mixing().double()
    of_y = share**2 * mixing().double().T @ of_x @ mixing().double() + (1 - share) ** 2 * of_x
    return float(between.square().sum() / (of_x.norm() * of_y.norm()))


def reference_cka_right(rows: int, share: float, seed: int) -> dict[str, np.ndarray]:
    x, y = two_models(rows, share, seed=seed // 2)
    estimates = ReferenceCKA(permutations=0)(TaskRows(x, None, y))
    return {"reference_cka": covered(*interval_of(profile(estimates)), cka_of_population(share))}


def reference_cka_alarms(rows: int, seed: int) -> dict[str, np.ndarray]:
    x, y = two_models(rows, 0.0, seed=seed // 2, layers=20)
    p = []
    for layer in range(len(x)):
        table = LayerTable()
        estimates = ReferenceCKA()(TaskRows(x[layer : layer + 1], None, y[layer : layer + 1]))
        table.add([profile(estimates, quantity="reference_cka")])
        p.append(table.findings().profiles[0].estimates.p)
    return {"p of reference_cka, one cell": np.concatenate(p) <= SIGNIFICANCE_LEVEL}


# Tuning gain ---------------------------------------------------------------------------------------------------------


@cache
def model_maps(kind: str) -> tuple[list[Tensor], list[Tensor]]:
    """How control, experimental and base model read a latent of 6 dimensions, and how they mix their own noise."""
    of_latent = [normal(6, 12, seed=3).double() * scale for scale in ((1, 1, 0.5) if kind == "gain" else (1, 0.8, 0.8))]
    of_noise = [0.6 * normal(12, 12, seed=seed).double() for seed in ((4, 5, 6) if kind == "gain" else (4, 5, 5))]
    return of_latent, of_noise


def three_models(kind: str, rows: int, *, seed: int, layers: int = 50) -> list[Tensor]:
    of_latent, of_noise = model_maps(kind)
    latent = normal(layers, rows, 6, seed=seed).double()
    noise = normal(3, layers, rows, 12, seed=seed + 1).double()
    return [latent @ of_latent[i] + noise[i] @ of_noise[i] for i in range(3)]


def gain_of_population(kind: str) -> dict[str, float]:
    of_latent, of_noise = model_maps(kind)
    norms = [(a.T @ a + b.T @ b).norm() for a, b in zip(of_latent, of_noise, strict=True)]
    experimental, base = (float((of_latent[0].T @ of_latent[i]).square().sum() / (norms[0] * norms[i])) for i in (1, 2))
    return {
        "cka/control_vs_experimental": experimental,
        "cka/control_vs_base": base,
        "tuning_gain": experimental - base,
    }


def tuning_gain_right(kind: str, rows: int, seed: int) -> dict[str, np.ndarray]:
    estimates, truth = tuning_gain(*three_models(kind, rows, seed=seed // 2)), gain_of_population(kind)
    right = {name: covered(*interval_of(profile(estimates[name])), truth[name]) for name in truth}
    for name, expected in expected_biased(kind, rows).items():
        right[name] = covered(*interval_of(profile(estimates[name])), expected)
    return right


def tuning_gain_alarms(rows: int, seed: int) -> dict[str, np.ndarray]:
    """Whether any cell is significant where control and experimental model are as similar as control and base."""
    alarms = []
    for number in range(5):
        table = LayerTable()
        for task in range(4):
            models = three_models("none", rows, seed=seed // 2 + 20 * number + 2 * task, layers=6)
            table.add([profile(tuning_gain(*models)["tuning_gain"], task=str(task), quantity="tuning_gain")])
        alarms.append(any((found.estimates.p <= SIGNIFICANCE_LEVEL).any() for found in table.findings().profiles))
    return {"p of tuning_gain, any cell": np.array(alarms)}


@cache
def expected_biased(kind: str, rows: int) -> dict[str, float]:
    """Means of the biased estimates over many samples of so many rows, which their intervals are about."""
    control, experimental, base = three_models(kind, rows, seed=10**6, layers=2000)
    vs_experimental, vs_base = (
        float(linear_cka(control, other, debiased=False).mean()) for other in (experimental, base)
    )
    return {
        "cka/control_vs_experimental_biased": vs_experimental,
        "cka/control_vs_base_biased": vs_base,
        "tuning_gain_biased": vs_experimental - vs_base,
    }


# Other similarities by half samples ----------------------------------------------------------------------------------

BY_HALVES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "reference_rsa": rsa,
    "reference_procrustes": procrustes_similarity,
    "reference_rbf_cka": rbf_cka,
    "reference_neighbour_overlap": neighbour_overlap,
    "svcca": svcca,
}


def by_halves_right(name: str, rows: int, share: float, seed: int) -> dict[str, np.ndarray]:
    x, y = two_models(rows, share, seed=seed // 2, layers=25)
    half_means = "added" if name == "reference_procrustes" else "ignored"
    measure = RowMeasure(quantity=name, unit="", function=BY_HALVES[name], needs="reference", half_means=half_means)
    estimates = measure(TaskRows(x, None, y))
    return {name: covered(*interval_of(profile(estimates)), expected_by_halves(name, rows, share))}


@cache
def expected_by_halves(name: str, rows: int, share: float) -> float:
    """Mean of the statistic over many samples of so many rows."""
    x, y = two_models(rows, share, seed=10**6, layers=600)
    return float(BY_HALVES[name](x, y).nanmean())


SIMULATIONS = [
    *(
        Simulation(
            name=f"label_cka {rows} {classes} {signal}",
            setting=f"{classes} classes, CKA {label_cka_of_population(classes, signal):.2f}, {rows} rows",
            right=partial(label_cka_right, rows, classes, signal),
            short=short,
            long=40,
            claim=claim,
        )
        for rows, classes, signal, short, claim in (
            (60, 2, 0.7, 4, "equal"),
            (200, 2, 0.7, 0, "equal"),
            (60, 6, 1.0, 0, "conservative"),
            (200, 6, 1.0, 0, "equal"),
            (200, 2, 0.3, 4, "equal"),
        )
    ),
    *(
        Simulation(
            name=f"label_cka of random labels {rows}",
            setting=f"2 classes, random labels, {rows} rows",
            right=partial(label_cka_right, rows, 2, 0.0),
            short=0,
            long=40,
            claim="conservative",
        )
        for rows in (60, 200)
    ),
    *(
        Simulation(
            name=f"label_cka p {rows} {classes}",
            setting=f"random labels, {classes} classes, {rows} rows",
            right=partial(label_cka_alarms, rows, classes, 200),
            rate="false alarms",
            short=short,
            long=100,
        )
        for rows, classes, short in ((60, 2, 10), (60, 6, 0), (200, 2, 0))
    ),
    *(
        Simulation(
            name=f"label_cka family-wise {tail} {correlation} {permutations}",
            setting=f"14 tasks × 31 layers, neighbours correlated {correlation}, 48 rows, {permutations} permutations"
            + (", `tail=moments`" if tail == "moments" else ""),
            right=partial(family_wise_alarms, correlation, tail, permutations),
            rate="false alarms",
            short=short,
            long=300,
            claim="conservative" if permutations == 50 else "equal",
        )
        for tail, correlation, permutations, short in (
            ("counted", 0.7, 200, 0),
            ("counted", 0.95, 200, 0),
            ("counted", 0.7, 50, 40),
            ("moments", 0.7, 200, 0),
        )
    ),
    *(
        Simulation(
            name=f"reference_cka {rows} {share}",
            setting=f"CKA {cka_of_population(share):.2f}, {rows} rows",
            right=partial(reference_cka_right, rows, share),
            short=short,
            long=40,
            claim="conservative" if rows == 60 else "equal",
        )
        for rows, share, short in ((60, 0.5, 4), (200, 0.5, 0), (200, 0.8, 0))
    ),
    Simulation(
        name="reference_cka unrelated",
        setting="unrelated models, 100 rows",
        right=partial(reference_cka_right, 100, 0.0),
        short=0,
        long=40,
        claim="conservative",
    ),
    Simulation(
        name="reference_cka p",
        setting="unrelated models, 60 rows",
        right=partial(reference_cka_alarms, 60),
        rate="false alarms",
        short=5,
        long=100,
    ),
    *(
        Simulation(
            name=f"tuning_gain {kind} {rows}",
            setting=f"gain {gain_of_population(kind)['tuning_gain']:.2f}, {rows} rows",
            right=partial(tuning_gain_right, kind, rows),
            short=short,
            long=40,
            claim="conservative" if (kind, rows) == ("none", 60) else "equal",
        )
        for kind, rows, short in (("gain", 60, 4), ("gain", 200, 0), ("none", 60, 0), ("none", 200, 4))
    ),
    *(
        Simulation(
            name=f"tuning_gain p {rows}",
            setting=f"no gain, 4 tasks × 6 layers, {rows} rows",
            right=partial(tuning_gain_alarms, rows),
            rate="false alarms",
            claim="conservative",
            short=short,
            long=60,
        )
        for rows, short in ((60, 0), (200, 0))
    ),
    *(
        Simulation(
            name=f"{name} {rows} {share}",
            setting=f"related models, {rows} rows",
            right=partial(by_halves_right, name, rows, share),
            short=short,
            long=32,
        )
        for name in BY_HALVES
        for rows, share, short in ((100, 0.5, 4),)
    ),
]
