"""What few rows span, as reflections that are applied and never multiplied out."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional


class RowSpan(NamedTuple):
    """What rows span, where they are fewer than their features: an orthonormal basis as Householder reflections.

    The basis itself is never built, which would take twice the time of finding the reflections.

    Attributes:
        reflectors: Below the diagonal, shape `(layers, features, rows)`; as `torch.geqrf` leaves them.
        scales: Of the reflections, shape `(layers, rows)`.

    Source:
        Golub and Van Loan 2013, "Matrix computations", section 5.2.
    """

    reflectors: Tensor
    scales: Tensor

    @classmethod
    def of(cls, x: Tensor) -> tuple[RowSpan, Tensor]:
        """Find the span of rows `(layers, rows, features)`, and their coordinates in it, `(layers, rows, rows)`."""
        reflectors, scales = torch.geqrf(x.mT)
        return cls(reflectors, scales), reflectors[:, : x.shape[1]].triu().mT

    def enter(self, vectors: Tensor) -> Tensor:
        """Coordinates `(layers, vectors, rows)` of vectors `(layers, vectors, features)`."""
        turned = torch.ormqr(self.reflectors, self.scales, vectors.mT, transpose=True)
        return turned[:, : self.scales.shape[1]].mT

    def leave(self, coordinates: Tensor) -> Tensor:
        """Undo `enter` in the span: coordinates `(layers, vectors, rows)` to vectors `(layers, vectors, features)`."""
        beyond = self.reflectors.shape[1] - self.scales.shape[1]
        return torch.ormqr(self.reflectors, self.scales, functional.pad(coordinates, (0, beyond)).mT).mT
