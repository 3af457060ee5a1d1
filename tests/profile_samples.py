"""Profiles over layers with and without level shifts."""

from __future__ import annotations

import numpy as np

LAYERS = 31
PLANTED = (10, 16)
"""First layers of the second and the third band."""


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


def autoregressive(*shape: int, coefficient: float, seed: int = 0, start: str = "stationary") -> np.ndarray:
    profiles = normal(*shape, seed=seed)
    profiles[..., 0] *= {"stationary": 1 / np.sqrt(1 - coefficient**2), "zero": 0.0, "innovation": 1.0}[start]
    for layer in range(1, shape[-1]):
        profiles[..., layer] += coefficient * profiles[..., layer - 1]
    return profiles


def level_shifts(*levels: float, starts: tuple[int, ...] = PLANTED, width: int = 1, layers: int = LAYERS) -> np.ndarray:
    """Levels of successive bands; a band starts at the first layer that is at least half way to its level."""
    profile = np.full(layers, float(levels[0]))
    for start, before, after in zip(starts, levels, levels[1:], strict=False):
        way = np.linspace(0, 1, width + 1)[1:]
        first = start - int((way < 0.5).sum())
        profile[first:] += (after - before) * np.concatenate([way, np.ones(layers)])[: layers - first]
    return profile
