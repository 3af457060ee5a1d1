"""A linear probe of limited rank: how few directions of a layer hold what it predicts."""

from __future__ import annotations

from torch import Tensor, nn


class LowRankProbe(nn.Module):
    """`logits = U (V x) + b`: an affine map whose weights are a product of two thin matrices.

    With two classes, and for regression, every linear probe has rank 1 already: adding the same weights to both classes
    changes no probability. In general k classes need at most rank k − 1.

    Args:
        in_features: Width of one layer's activations.
        num_classes: Number of classes (softmax; 2 for a binary task) or labels (sigmoid); 1 for regression.
        rank: Directions of the layer that the probe reads.

    Source:
        Hewitt and Liang 2019, "Designing and interpreting probes with control tasks", who limit probes by rank.

    Example:
        >>> import torch
        >>> probe = LowRankProbe(6, 4, rank=2)
        >>> probe(torch.zeros(5, 6)).shape, torch.linalg.matrix_rank(probe.write.weight @ probe.read.weight).item()
        (torch.Size([5, 4]), 2)
    """

    def __init__(self, in_features: int, num_classes: int, *, rank: int) -> None:
        super().__init__()
        if rank < 1:
            raise ValueError(f"A probe has a rank of at least 1; got {rank}. Set `probe.architecture.rank`.")
        self.read = nn.Linear(in_features, rank, bias=False)
        self.write = nn.Linear(rank, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map activations `(batch, in_features)` to logits `(batch, num_classes)`."""
        return self.write(self.read(x))
