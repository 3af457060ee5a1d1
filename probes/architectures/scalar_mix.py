"""A linear probe on a learned mixture of all layers, whose weights say which layers it reads."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ScalarMixProbe(nn.Module):
    """One affine map of Σₗ wₗ xₗ, where the weights w = softmax(rate · scores) are learned with it.

    A layer whose score is −∞ has the weight 0 and keeps it, so that mixtures of some layers only can be trained beside
    each other.

    Args:
        in_features: Number of layers times the width of one, as activations of all layers stand side by side.
        num_classes: Number of classes (softmax; 2 for a binary task) or labels (sigmoid); 1 for regression.
        layers: Number of layers.
        rate: Factor of the scores, by which the weights learn faster than the affine map.

    Source:
        Peters et al. 2018, "Deep contextualized word representations"; without their scale factor, which the affine map
        makes superfluous.

    Example:
        >>> probe = ScalarMixProbe(6, 3, layers=2)
        >>> probe(torch.zeros(5, 6)).shape, probe.weights().tolist()
        (torch.Size([5, 3]), [0.5, 0.5])
    """

    def __init__(self, in_features: int, num_classes: int, *, layers: int, rate: float = 10.0) -> None:
        super().__init__()
        if layers < 1 or in_features % layers != 0:
            raise ValueError(f"{layers} layers cannot stand side by side in {in_features} features.")
        self.layers, self.rate = layers, rate
        self.scores = nn.Parameter(torch.zeros(layers))
        self.linear = nn.Linear(in_features // layers, num_classes)
        nn.init.zeros_(self.linear.weight)  # a random start would move the scores by chance before anything is learned

    def weights(self) -> Tensor:
        """Weight of each layer, sum 1."""
        return (self.rate * self.scores).softmax(-1)

    def forward(self, x: Tensor) -> Tensor:
        """Map activations `(batch, layers · width)` to logits `(batch, num_classes)`."""
        by_layer = x.unflatten(1, (self.layers, -1)).transpose(0, 1)  # (layers, batch, width)
        # one matrix product, which vmap does not copy the rows for
        mixed = (self.weights() @ by_layer.flatten(1)).view(by_layer.shape[1:])
        return self.linear(mixed)
