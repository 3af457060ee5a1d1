"""A bank of linear probes solved at once against a loop of scikit-learn fits, at the same penalty."""

from __future__ import annotations

import warnings

import torch
from claim import Claim, alternate
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from probes.training.exact import solve_linear

LAYERS, ROWS, FEATURES, PEER_LAYERS, PENALTY = 31, 2000, 576, 1, 1e-3


def activations(classes: int) -> tuple[Tensor, Tensor]:
    """Standardised rows with a decaying spectrum, as activations have, and labels that a probe finds in part."""
    generator = torch.Generator().manual_seed(classes)
    x = torch.randn(LAYERS, ROWS, FEATURES, generator=generator)
    x = (
        x
        * (1 + torch.arange(FEATURES)).pow(-0.5)
        @ torch.linalg.qr(torch.randn(FEATURES, FEATURES, generator=generator))[0]
    )
    x = (x - x.mean(1, keepdim=True)) / x.std(1, correction=0, keepdim=True)
    scores = x[LAYERS // 2] @ torch.randn(FEATURES, classes, generator=generator) / FEATURES**0.5
    return x, (scores + torch.randn(ROWS, classes, generator=generator)).argmax(1)


def main() -> list[Claim]:
    tasks = [(classes, *activations(classes)) for classes in (2, 2, 3, 4, 6, 10)]

    def ours() -> None:
        for classes, x, y in tasks:
            solve_linear("classification", x, y[None], torch.tensor([PENALTY]), classes=classes)

    def peer() -> None:
        for classes, x, y in tasks:
            inverse = (2 if classes == 2 else 1) / (PENALTY * ROWS)
            for layer in range(PEER_LAYERS):
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", ConvergenceWarning)
                    LogisticRegression(C=inverse).fit(x[layer].numpy(), y.numpy())

    ours_seconds, peer_seconds = alternate(ours, peer, rounds=1, warm_up=False)
    note = (
        f"{LAYERS} layers, {len(tasks)} tasks of 2 to 10 classes, {ROWS} rows, {FEATURES} features, one penalty; "
        f"the peer fitted {PEER_LAYERS} of {LAYERS} layers and is scaled"
    )
    peer_seconds *= LAYERS / PEER_LAYERS
    return [Claim("linear probes of all layers", "scikit-learn loop (lbfgs)", ours_seconds, peer_seconds, 25.0, note)]
