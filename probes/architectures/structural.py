"""Probes of the words of a sentence, whose outputs are distances and depths in its tree.

Distances are squared lengths of linear maps of differences of vectors, as Hewitt and Manning 2019 ("A structural probe
for finding syntax in word representations") define them. Targets are NaN where a sentence has no word.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from probes.architectures.protocol import Outputs


class _Projection(nn.Module):
    """A linear map to `rank` features without bias, started so that it neither shrinks nor stretches much.

    Two vectors of independent standardised features are at a squared distance of 4 at first, whatever the rank: about
    as far as two words are in a tree.
    """

    def __init__(self, in_features: int, rank: int) -> None:
        super().__init__()
        if rank < 1:
            raise ValueError(
                f"The rank of a structural probe must be at least 1; got {rank}. Set `study.probes.ranks`."
            )
        self.projection = nn.Linear(in_features, rank, bias=False)
        largest = (6 / (rank * in_features)) ** 0.5
        nn.init.uniform_(self.projection.weight, -largest, largest)

    def project(self, x: Tensor) -> Tensor:
        """Map `(batch, tokens, in_features)` to `(batch, tokens, rank)`."""
        # As one matrix, so that the probes of a bank that share x need no copy of it.
        return self.projection(x.flatten(0, 1)).unflatten(0, x.shape[:2])


class DistanceProbe(_Projection):
    """Distances between words in the dependency tree, as |B x − B y|².

    Args:
        in_features: Width of one layer's activations.
        rank: Rows of B, the dimensions of the space in which distances are measured.

    Example:
        >>> DistanceProbe(4, 2)(torch.zeros(3, 5, 4), torch.ones(3, 5, dtype=torch.bool)).shape
        torch.Size([3, 5, 5])
    """

    outputs: ClassVar[Outputs] = "token pairs"
    reads_tokens: ClassVar[bool] = True

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:  # noqa: ARG002 - targets tell which words there are
        """Predict distances `(batch, tokens, tokens)` from activations `(batch, tokens, in_features)`."""
        projected = self.project(x)
        products = projected @ projected.mT
        lengths = products.diagonal(dim1=-2, dim2=-1)
        return lengths[..., :, None] + lengths[..., None, :] - 2 * products

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Mean absolute error over the pairs of words of each sentence, shape `(batch,)`."""
        return _mean_absolute_error(logits, targets)


class DepthProbe(_Projection):
    """Depths of words in the dependency tree, as |B x|².

    Args:
        in_features: Width of one layer's activations.
        rank: Rows of B.

    Example:
        >>> DepthProbe(4, 2)(torch.zeros(3, 5, 4), torch.ones(3, 5, dtype=torch.bool)).shape
        torch.Size([3, 5])
    """

    outputs: ClassVar[Outputs] = "tokens"
    reads_tokens: ClassVar[bool] = True

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:  # noqa: ARG002 - targets tell which words there are
        """Predict depths `(batch, tokens)` from activations `(batch, tokens, in_features)`."""
        return self.project(x).square().sum(-1)

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Mean absolute error over the words of each sentence, shape `(batch,)`."""
        return _mean_absolute_error(logits, targets)


class SyntacticDistanceProbe(nn.Module):
    """How high the smallest phrase is that holds a word and the next, as a linear function of both vectors.

    Only the order of the heights in a sentence matters (Shen et al. 2018, "Straight to the tree").

    Args:
        in_features: Width of one layer's activations.
        rank: Hidden units; 0 for a linear function.

    Example:
        >>> SyntacticDistanceProbe(4)(torch.zeros(3, 5, 4), torch.ones(3, 5, dtype=torch.bool)).shape
        torch.Size([3, 5])
    """

    outputs: ClassVar[Outputs] = "tokens"
    reads_tokens: ClassVar[bool] = True

    def __init__(self, in_features: int, rank: int = 0) -> None:
        super().__init__()
        self.both = nn.Linear(in_features, 2 * max(rank, 1), bias=False)  # of the word, and of the next
        self.rank = rank
        if rank > 0:
            self.bias = nn.Parameter(torch.zeros(rank))
            self.output = nn.Linear(rank, 1, bias=False)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:  # noqa: ARG002 - targets tell which words there are
        """Predict the height between each word and the next, `(batch, tokens)`; the last one has no meaning."""
        left, right = self.both(x.flatten(0, 1)).unflatten(0, x.shape[:2]).chunk(2, dim=-1)
        hidden = left + right.roll(-1, dims=1)
        if self.rank > 0:
            hidden = self.output((hidden + self.bias).tanh().flatten(0, 1)).unflatten(0, x.shape[:2])
        return hidden[..., 0]

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Hinge loss of the order of two gaps, averaged over the pairs of each sentence that differ, `(batch,)`.

        Args:
            logits: Shape `(batch, tokens)`.
            targets: Heights, shape `(batch, tokens)`, NaN where there is no gap.
        """
        order = (targets[..., :, None] - targets[..., None, :]).nan_to_num().sign()
        violations = (1 - order * (logits[..., :, None] - logits[..., None, :])).clamp_min(0)
        counted = order.abs()
        return (violations * counted).sum((-2, -1)) / counted.sum((-2, -1)).clamp_min(1)


def _mean_absolute_error(predicted: Tensor, targets: Tensor) -> Tensor:
    known = targets.isfinite()
    errors = (predicted - targets.nan_to_num()).abs() * known
    return errors.flatten(1).sum(1) / known.flatten(1).sum(1).clamp_min(1)
