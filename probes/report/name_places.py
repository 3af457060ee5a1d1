"""Where names go so that none lies on another: those of curves beside a figure, those of bands above it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_CHARACTER = 0.075  # inches, of the names of bands


def spread_apart(heights: np.ndarray, *, gap: float, low: float, high: float) -> np.ndarray:
    """Heights in the same order, moved as little as needed for neighbours to lie `gap` apart between low and high."""
    order = np.argsort(heights, kind="stable")
    steps = gap * np.arange(len(heights))
    eased = heights[order] - steps
    for _ in range(len(eased)):  # the nearest ascending sequence: neighbours that descend take their block's mean
        blocks = np.split(eased, np.flatnonzero(np.diff(eased) > 0) + 1)
        eased = np.concatenate([np.full(len(block), block.mean()) for block in blocks])
    moved = np.clip(eased, low, max(low, high - steps[-1])) + steps
    return moved[np.argsort(order)]


def rows_of_names(names: Sequence[str], spans: Sequence[tuple[float, float]], step: float) -> list[int]:
    """The lowest row above the axes where each name, centred on its band, is clear of the names before it."""
    ends: list[float] = []  # inches, right end of the last name in each row
    rows = []
    for name, (left, right) in zip(names, spans, strict=True):
        middle, half = step * (left + right) / 2, _CHARACTER * (len(name) + 1) / 2
        row = next((row for row, end in enumerate(ends) if end <= middle - half), len(ends))
        ends[row:] = [middle + half, *ends[row + 1 :]]
        rows.append(row)
    return rows
