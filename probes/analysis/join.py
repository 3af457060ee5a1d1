"""Two models' activations of the same rows, matched by row id: what one side lacks, both lose."""

from __future__ import annotations

import logging
from typing import NamedTuple

import torch
from torch import Tensor

from probes.values import Activations, Layer

_log = logging.getLogger(__name__)


class JoinedActivations(NamedTuple):
    """Activations of the rows both sides have, in the order of the first.

    Attributes:
        x: The first side.
        y: The second.
        num_dropped: Rows of either side that were left out.
    """

    x: Activations
    y: Activations
    num_dropped: int


def join_rows(x: Activations, y: Activations) -> JoinedActivations:
    """Match rows by their ids; rows only one side has, or that are not finite on one side, are dropped on both.

    Raises:
        ValueError: No row is left.
    """
    place = {row: index for index, row in enumerate(y.row_ids)}
    finite_x, finite_y = _finite_rows(x.values), _finite_rows(y.values)
    kept = [(i, place[row]) for i, row in enumerate(x.row_ids) if row in place]
    kept = [(i, j) for i, j in kept if finite_x[i] and finite_y[j]]
    if not kept:
        raise ValueError(
            f"No row is left to compare: {len(x.row_ids)} and {len(y.row_ids)} rows, of which {len(place)} ids in the "
            "second. Read the same task, split and `suite.seed` with both backbones."
        )
    num_dropped = len(set(x.row_ids) | set(y.row_ids)) - len(kept)
    if num_dropped > 0:
        _log.warning("%d rows are missing or not finite on one side, and were dropped on both.", num_dropped)
    rows_x, rows_y = (torch.tensor(rows) for rows in zip(*kept, strict=True))
    return JoinedActivations(_rows(x, rows_x), _rows(y, rows_y), num_dropped)


def match_layers(layers: tuple[Layer, ...], others: tuple[Layer, ...]) -> tuple[Layer, ...]:
    """The layer of another model that stands beside each layer: of the same name, or else at the same relative depth.

    Names count if the other model has them all, unless both lists hold every layer up to a last one (from 0, or from 1
    for sublayers) and the last ones differ: then the models are of different depth.

    >>> match_layers((0, 1, 2, "final"), (0, 1, 2, 3, 4, "final"))
    (0, 2, 4, 'final')
    """
    own, numbered = ([layer for layer in names if isinstance(layer, int)] for names in (layers, others))
    unequal_depths = _every_layer(own) and _every_layer(numbered) and len(own) != len(numbered)
    if set(layers) <= set(others) and not unequal_depths:
        return layers
    depth = max(own, default=0)
    matched = []
    for layer in layers:
        if isinstance(layer, int) and numbered:
            wanted = layer / max(depth, 1) * max(numbered)
            matched.append(min(numbered, key=lambda other: abs(other - wanted)))
        else:
            matched.append(others[-1])
    return tuple(matched)


def at_layers(activations: Activations, layers: tuple[Layer, ...]) -> Tensor:
    """Values at some layers, which may repeat; shape `(layers, rows, features)`."""
    if layers == activations.layers:
        return activations.values
    return activations.values[[activations.layers.index(layer) for layer in layers]]


def _every_layer(numbers: list[int]) -> bool:
    return numbers in (list(range(len(numbers))), list(range(1, len(numbers) + 1))) and len(numbers) > 0


def _finite_rows(values: Tensor) -> list[bool]:
    return values.isfinite().all(2).all(0).tolist()


def _rows(activations: Activations, rows: Tensor) -> Activations:
    if torch.equal(rows, torch.arange(len(activations.row_ids))):
        return activations
    names = tuple(activations.row_ids[row] for row in rows.tolist())
    return Activations(activations.values[:, rows], activations.layers, names, activations.reading)
