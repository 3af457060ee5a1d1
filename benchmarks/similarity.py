"""Debiased CKA of all pairs of layers at once against a float64 loop over pairs; and what its null costs."""

from __future__ import annotations

import resource
import time

import torch
from claim import Claim, alternate
from torch import Tensor

from probes.analysis import LabelCKA, TaskRows, cka_pairs, label_cka

LAYERS, FEATURES, PEER_PAIRS = 31, 576, 12


def activations(rows: int, *, seed: int = 0) -> Tensor:
    """Layers that drift from one to the next, as on a residual stream, with a decaying spectrum; float32."""
    generator = torch.Generator().manual_seed(seed)
    scale = (1 + torch.arange(FEATURES)).pow(-0.5)
    x = torch.randn(LAYERS, rows, FEATURES, generator=generator) * scale
    return x.cumsum(0) / torch.arange(1, LAYERS + 1).sqrt()[:, None, None]


def pair_in_float64(x: Tensor, y: Tensor) -> Tensor:
    """Debiased CKA of one pair, features × features, from the definition."""

    def hsic(a: Tensor, b: Tensor) -> Tensor:
        rows = len(a)
        product = (a.T @ b).square().sum()
        diagonal_a, diagonal_b = a.square().sum(1), b.square().sum(1)
        both = diagonal_a @ diagonal_b
        totals = diagonal_a.sum() * diagonal_b.sum() / ((rows - 1) * (rows - 2))
        return (product - both + totals - 2 / (rows - 2) * both) / (rows * (rows - 3))

    x, y = x.double(), y.double()
    x, y = x - x.mean(0), y - y.mean(0)
    return hsic(x, y) / (hsic(x, x) * hsic(y, y)).sqrt()


def pairs_claim(rows: int, target: float) -> Claim:
    x, y = activations(rows), activations(rows, seed=1) + activations(rows)
    chosen = [(7 * i % LAYERS, 11 * i % LAYERS) for i in range(PEER_PAIRS)]
    error = max(abs(float(cka_pairs(x[[i]], y[[j]])[0, 0] - pair_in_float64(x[i], y[j]))) for i, j in chosen)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    ours, peer = alternate(lambda: cka_pairs(x, y), lambda: [pair_in_float64(x[i], y[j]) for i, j in chosen], rounds=3)
    more = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**20
    note = (
        f"{LAYERS} × {LAYERS} pairs, {rows} rows, {FEATURES} features; the loop did {PEER_PAIRS} pairs and is scaled; "
        f"largest error against float64 {error:.1e}; {more:.2f} GiB more memory at the peak"
    )
    return Claim(
        "debiased CKA of all layer pairs", "float64 loop over pairs", ours, peer * LAYERS**2 / PEER_PAIRS, target, note
    )


def own_pairs_claim(rows: int, target: float) -> Claim:
    """One model's layers against each other, where each kernel serves both sides; the loop does not know."""
    x = activations(rows)
    chosen = [(7 * i % LAYERS, 11 * i % LAYERS) for i in range(PEER_PAIRS)]
    ours, peer = alternate(lambda: cka_pairs(x, x), lambda: [pair_in_float64(x[i], x[j]) for i, j in chosen], rounds=3)
    note = f"{LAYERS} × {LAYERS} pairs, {rows} rows, {FEATURES} features; the loop did {PEER_PAIRS} pairs and is scaled"
    work = "debiased CKA within one model"
    return Claim(work, "float64 loop over pairs", ours, peer * LAYERS**2 / PEER_PAIRS, target, note)


def null_claim() -> Claim:
    """Not a race: what null and errors of a layer × task matrix add to its values, at most 3 times what those cost."""
    tasks = [
        (activations(1000, seed=task), torch.randint(0, classes, (1000,))) for task, classes in enumerate((2, 3, 6))
    ]

    def point() -> None:
        for x, labels in tasks:
            label_cka(x, labels)

    def with_doubt() -> None:
        for x, labels in tasks:
            LabelCKA(permutations=200)(TaskRows(x, labels))

    with_seconds, point_seconds = alternate(with_doubt, point, rounds=3)
    extra = max(with_seconds - point_seconds, 1e-9)
    note = f"{LAYERS} layers, 3 tasks of 1,000 rows; ours is what null and errors add, theirs 3 × the values alone"
    return Claim(
        "200 permutations and errors of label CKA", "3 × the point estimates", extra, 3 * point_seconds, 1.0, note
    )


def main() -> list[Claim]:
    return [pairs_claim(5000, 25.0), own_pairs_claim(5000, 25.0), pairs_claim(1000, 60.0), null_claim()]


if __name__ == "__main__":
    start = time.perf_counter()
    for claim in main():
        print(f"{claim.ratio:.1f} (target {claim.target:g}) {claim.work}: {claim.ours_seconds:.2f} s, {claim.note}")
    print(f"{time.perf_counter() - start:.0f} s")
