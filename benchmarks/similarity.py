"""Debiased CKA of all pairs of layers: time and error against a float64 loop over pairs and the package pytorch-cka.

A last claim bounds what the permutation null and the jackknife of label CKA cost.
"""

from __future__ import annotations

from functools import partial

import torch
from cka import cka_from_features
from claim import Claim, against_slow, alternate, show
from device import argument_parser, chosen, reached
from peak import more_gib
from torch import Tensor

from probes.analysis import LabelCKA, TaskRows, cka_pairs, label_cka

LAYERS = 31
PEER_PAIRS = 12
"""Pairs of layers that the loop computes; its time is scaled to all."""
PAIRS = [(7 * i % LAYERS, 11 * i % LAYERS) for i in range(PEER_PAIRS)]
WORK = "debiased CKA, 31 × 31 layers of a model"


def activations(rows: int, features: int = 576, *, device: torch.device, seed: int = 0) -> Tensor:
    """Layers that drift from one to the next, as on a residual stream, with a decaying spectrum; float32."""
    generator = torch.Generator().manual_seed(seed)
    scale = (1 + torch.arange(features)).pow(-0.5)
    x = torch.empty(LAYERS, rows, features)
    stream = torch.zeros(rows, features)
    for k in range(LAYERS):
        stream += torch.randn(rows, features, generator=generator) * scale
        x[k] = stream / (k + 1) ** 0.5
    return x.to(device)


def pair_in_float64(x: Tensor, y: Tensor) -> Tensor:
    """Debiased CKA of one pair, features × features, from the definition and not from `probes`."""

    def hsic(a: Tensor, b: Tensor) -> Tensor:
        rows = len(a)
        products = (a.T @ b).square().sum()
        a_diagonal, b_diagonal = a.square().sum(1), b.square().sum(1)
        diagonals = a_diagonal @ b_diagonal
        traces = a_diagonal.sum() * b_diagonal.sum() / ((rows - 1) * (rows - 2))
        return (products - diagonals + traces - 2 / (rows - 2) * diagonals) / (rows * (rows - 3))

    x, y = x.double(), y.double()
    x, y = x - x.mean(0), y - y.mean(0)
    return hsic(x, y) / (hsic(x, x) * hsic(y, y)).sqrt()


def loop_over_pairs(x: Tensor, y: Tensor) -> list[Tensor]:
    """The peer: some pairs of layers, one after another."""
    return [pair_in_float64(x[i], y[j]) for i, j in PAIRS]


def largest_error(ours: Tensor, x: Tensor, y: Tensor) -> float:
    """Over the pairs that the loop computes."""
    return max(abs(float(ours[i, j] - exact)) for (i, j), exact in zip(PAIRS, loop_over_pairs(x, y), strict=True))


def pair_claims(
    rows: int, features: int, device: torch.device, *, loop_target: float, package_target: float, rounds: int
) -> list[Claim]:
    """One model's layers with each other; the package computes all pairs, the loop some."""
    x = activations(rows, features, device=device)
    values: list[Tensor] = []
    memory = more_gib(lambda: values.append(cka_pairs(x, x)), device)
    sizes = (
        f"{rows} rows, {features} features, largest error against float64 {largest_error(values[0], x, x):.0e}, "
        f"{memory:.2f} GiB more memory at the peak"
    )
    package_gib: list[float] = []
    ours, pairs, package = against_slow(
        partial(cka_pairs, x, x),
        partial(loop_over_pairs, x, x),
        lambda: package_gib.append(more_gib(partial(cka_from_features, x, x), device)),
        rounds=rounds,
        warm_up=False,
    )
    rate = reached(LAYERS * rows**2 * features, ours, device, torch.float32)
    loop_note = f"{sizes}; the loop computed {PEER_PAIRS} pairs and its time is scaled to all; {rate}"
    pairs *= LAYERS**2 / PEER_PAIRS
    return [
        Claim(WORK, "float64 loop over pairs", ours, pairs, loop_target, loop_note),
        Claim(WORK, "the package pytorch-cka", ours, package, package_target, f"it took {package_gib[0]:.1f} GiB more"),
    ]


def two_models_claim(rows: int, device: torch.device) -> Claim:
    """Twice the kernels for the same number of pairs: at least 62 × rows² × features float32 products."""
    x, y = activations(rows, device=device), activations(rows, device=device, seed=1)
    y += x
    ours, peer = against_slow(partial(cka_pairs, x, y), partial(loop_over_pairs, x, y))
    error = largest_error(cka_pairs(x, y), x, y)
    note = f"{rows} rows, 576 features, largest error {error:.0e}; the loop's time is scaled from {PEER_PAIRS} pairs"
    work = "debiased CKA, 31 × 31 layers of two models"
    return Claim(work, "float64 loop over pairs", ours, peer * LAYERS**2 / PEER_PAIRS, 15.0, note)


def null_claim(device: torch.device) -> Claim:
    """Time that null and errors of a layer × task matrix take, as a multiple of the time of its values."""
    tasks = [
        (activations(1000, device=device, seed=task), torch.randint(0, classes, (1000,), device=device))
        for task, classes in enumerate((2, 3, 6))
    ]

    def values_alone() -> None:
        for x, labels in tasks:
            label_cka(x, labels)

    def with_uncertainty() -> None:
        for x, labels in tasks:
            LabelCKA(permutations=200)(TaskRows(x, labels))

    seconds, values_seconds = alternate(with_uncertainty, values_alone, rounds=5)
    note = f"{LAYERS} layers, 3 tasks of 1,000 rows; ours is the time of 200 permutations and the jackknife alone"
    work, against = "null and intervals of label CKA", "the values alone"
    return Claim(work, against, seconds - values_seconds, values_seconds, 3.0, note, at_most=True)


def main(device: str = "auto") -> list[Claim]:
    place = chosen(device)
    return [
        *pair_claims(5000, 576, place, loop_target=25.0, package_target=5.0, rounds=5),
        *pair_claims(5000, 2048, place, loop_target=25.0, package_target=5.0, rounds=5),
        *pair_claims(1000, 576, place, loop_target=60.0, package_target=2.0, rounds=5),
        two_models_claim(5000, place),
        null_claim(place),
    ]


if __name__ == "__main__":
    show(main(**vars(argument_parser(__doc__).parse_args())))
