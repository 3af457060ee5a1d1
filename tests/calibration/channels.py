"""Channels between heads: how often does a model whose weights are drawn at random have any?"""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from calibration.simulation import Simulation

from probes.analysis.composition import KINDS, WrittenComponents, composition_scores, reading_matrices
from probes.values import SIGNIFICANCE_LEVEL

DATA_SETS = 25
"""Models of one call."""
FEATURES, HEADS, RANK = 64, 4, 8


def any_channel(spread: float, seed: int) -> dict[str, np.ndarray]:
    """Whether any of all pairs of heads of two blocks has a corrected p below the level.

    Args:
        spread: Deviation of the logarithm of the sizes of a head's rows: with a large one, a head reads and writes
            along few directions.
        seed: Decides the weights.
    """
    generator = torch.Generator().manual_seed(seed % 2**62)
    alarms: dict[str, list[bool]] = {"p of channels, whole heads": [], "p of channels, components": []}
    for _ in range(DATA_SETS):
        weights = torch.randn(2, 4, HEADS, RANK, FEATURES, generator=generator)
        weights = weights * torch.exp(spread * torch.randn(2, 4, HEADS, RANK, 1, generator=generator))
        (query, key, value, output), (_, _, earlier_value, earlier_output) = weights
        reading = reading_matrices(query, key, value, output.transpose(1, 2))
        written = WrittenComponents.of(earlier_value, earlier_output.transpose(1, 2))
        found = [composition_scores(reading[kind], written) for kind in KINDS]
        for name, log_p in (
            ("p of channels, whole heads", np.stack([own.whole_log_p for own in found])),
            ("p of channels, components", np.stack([own.components_log_p for own in found])),
        ):
            alarms[name].append(bool(np.exp(log_p.min()) * log_p.size < SIGNIFICANCE_LEVEL))
    return {name: np.array(raised, dtype=float) for name, raised in alarms.items()}


SIMULATIONS = [
    Simulation(
        name=f"channels, spread {spread:g}",
        setting=(
            f"random weights, {HEADS} heads of rank {RANK} in each of 2 blocks, {FEATURES} features, logarithm of the "
            f"sizes of rows with deviation {spread:g}"
        ),
        right=partial(any_channel, spread),
        rate="false alarms",
        claim="conservative",
        short=short,
        long=60,
    )
    for spread, short in ((0.3, 4), (1.5, 0))
]
