"""Edits of hidden states: set, add, project out, and replace by what another text or another model has there.

Each function makes an `Edit` for `FrozenBackbone.intervene`. Numbers are computed in float32, whatever the model's
dtype, so that an edit that changes nothing changes no bit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from probes.backbones import Edit
from probes.values import Layer


def set_to(value: Tensor, *, layer: Layer, **place: Any) -> Edit:
    """Hidden states become a value: another text's or another model's activations, their mean, or zeros.

    Args:
        value: Shape `(features,)`, `(batch, features)` for one vector a row, or `(batch, tokens, features)`.
        layer: Where.
        **place: `site`, `positions` and `stack` of the `Edit`.
    """
    return Edit(layer, lambda hidden: _over_tokens(value, hidden).expand_as(hidden), **place)


def add(vector: Tensor, *, layer: Layer, scale: float = 1.0, **place: Any) -> Edit:
    """A multiple of a vector is added to hidden states.

    Args:
        vector: Shape `(features,)`, `(batch, features)` or `(batch, tokens, features)`.
        layer: Where.
        scale: Factor of the vector.
        **place: `site`, `positions` and `stack` of the `Edit`.
    """
    return Edit(layer, _in_float32(lambda hidden: hidden + scale * _over_tokens(vector.float(), hidden)), **place)


def project_out(
    directions: Tensor, *, layer: Layer, centre: Tensor | None = None, read: Tensor | None = None, **place: Any
) -> Edit:
    """Remove a subspace: h becomes h − D Rᵀ (h − c).

    Args:
        directions: D, whose columns are what is removed, shape `(features, rank)`; orthonormal, unless `read` is given.
        layer: Where.
        centre: c, shape `(features,)`: where the removed coordinates end up; default 0.
        read: R, shape `(features, rank)`, for an oblique projection, with RᵀD = I; default D.
        **place: `site`, `positions` and `stack` of the `Edit`.
    """
    left = directions.float()
    right = left if read is None else read.float()

    def change(hidden: Tensor) -> Tensor:
        centred = hidden if centre is None else hidden - _over_tokens(centre.float(), hidden)
        return hidden - (centred @ right.to(hidden.device)) @ left.to(hidden.device).T

    return Edit(layer, _in_float32(change), **place)


def _in_float32(change: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    return lambda hidden: change(hidden.float()).to(hidden.dtype)


def _over_tokens(value: Tensor, hidden: Tensor) -> Tensor:
    """A value as `(batch, tokens, features)`, with axes of length 1 where it is the same, on the device of `hidden`."""
    value = value.to(device=hidden.device, dtype=hidden.dtype)
    return value[:, None] if value.ndim == 2 else value
