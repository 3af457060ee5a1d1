"""Activations of two models matched to each other: rows by their ids, layers by name or by relative depth."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from probes.values import Activations, Layer

_log = logging.getLogger(__name__)


class JoinedActivations(NamedTuple):
    """Activations of the rows that both sides have, in the order of the first.

    Attributes:
        x: The first side.
        y: The second side.
        num_dropped: Rows of either side that were dropped.
    """

    x: Activations
    y: Activations
    num_dropped: int


def join_rows(x: Activations, y: Activations) -> JoinedActivations:
    """Match rows by their ids; rows that one side lacks, or that are not finite on one side, are dropped on both.

    Raises:
        ValueError: No row is left.
    """
    y_position = {row_id: position for position, row_id in enumerate(y.row_ids)}
    x_finite, y_finite = _finite_rows(x.values), _finite_rows(y.values)
    matched = [(i, y_position[row_id]) for i, row_id in enumerate(x.row_ids) if row_id in y_position]
    matched = [(i, j) for i, j in matched if x_finite[i] and y_finite[j]]
    if not matched:
        raise ValueError(
            f"No row is left to compare: of {len(x.row_ids)} and {len(y.row_ids)} rows, none has its id on both sides "
            "and is finite on both. Read the same task, split and `suite.seed` with both backbones."
        )
    num_dropped = len(set(x.row_ids) | set(y.row_ids)) - len(matched)
    if num_dropped > 0:
        _log.warning("%d rows are missing or not finite on one side, and were dropped on both.", num_dropped)
    x_rows, y_rows = (torch.tensor(positions) for positions in zip(*matched, strict=True))
    return JoinedActivations(_rows(x, x_rows), _rows(y, y_rows), num_dropped)


def match_layers(
    layers: tuple[Layer, ...],
    other_layers: tuple[Layer, ...],
    *,
    depth: int | None = None,
    other_depth: int | None = None,
) -> tuple[Layer, ...]:
    """The layer of another model to compare with each layer: the one at the same relative depth.

    In models with equally many blocks that is the layer of the same name, or the nearest that was read. A layer that is
    not numbered matches the one of the same name, or else the last layer of the other model.

    Where a depth is unknown, layers match by name if the other model has them all, unless the lists show two models of
    different depth: each holds every layer up to its last (from 0, or from 1 for sublayers), and the last ones differ.

    Args:
        layers: Of one model.
        other_layers: Of the other.
        depth: Number of blocks of the one model.
        other_depth: Number of blocks of the other.

    >>> match_layers((0, 1, 2, "final"), (0, 1, 2, 3, 4, "final"))
    (0, 2, 4, 'final')
    >>> match_layers((0, 1, 2), (0, 1, 2, 3, 4), depth=4, other_depth=4)
    (0, 1, 2)
    """
    numbers, other_numbers = ([layer for layer in names if isinstance(layer, int)] for names in (layers, other_layers))
    if depth is None or other_depth is None:
        complete = _is_every_layer(numbers) and _is_every_layer(other_numbers)
        if set(layers) <= set(other_layers) and not (complete and len(numbers) != len(other_numbers)):
            return layers
        depth, other_depth = max(numbers, default=0), max(other_numbers, default=0)
    matched = []
    for layer in layers:
        if isinstance(layer, int) and other_numbers:
            position = layer * other_depth / max(depth, 1)
            matched.append(min(other_numbers, key=lambda number: abs(number - position)))
        else:
            matched.append(layer if layer in other_layers else other_layers[-1])
    return tuple(matched)


def layer_remarks(layers: tuple[Layer, ...], matched: tuple[Layer, ...]) -> tuple[str, ...]:
    """For each layer that is compared with one of another name, which that is; one string a layer."""
    return tuple("" if a == b else f"against layer {b}" for a, b in zip(layers, matched, strict=True))


def values_at_layers(activations: Activations, layers: tuple[Layer, ...]) -> Tensor:
    """Values at the named layers, which may repeat; shape `(layers, rows, features)`."""
    if layers == activations.layers:
        return activations.values
    return activations.values[[activations.layers.index(layer) for layer in layers]]


def _is_every_layer(numbers: list[int]) -> bool:
    return numbers in (list(range(len(numbers))), list(range(1, len(numbers) + 1))) and len(numbers) > 0


def _finite_rows(values: Tensor) -> list[bool]:
    return values.isfinite().all(2).all(0).tolist()


def _rows(activations: Activations, rows: Tensor) -> Activations:
    if torch.equal(rows, torch.arange(len(activations.row_ids))):
        return activations
    row_ids = tuple(activations.row_ids[row] for row in rows.tolist())
    return replace(activations, values=activations.values[:, rows], row_ids=row_ids)
