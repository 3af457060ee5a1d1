"""The multi-layer perceptron: what can be read off a layer with some computation of the probe's own."""

from __future__ import annotations

from torch import Tensor, nn

ACTIVATIONS: dict[str, type[nn.Module]] = {"gelu": nn.GELU, "relu": nn.ReLU, "silu": nn.SiLU, "tanh": nn.Tanh}


class MLPProbe(nn.Module):
    """Hidden layers of `Linear → activation → Dropout`, then one affine map.

    Args:
        in_features: Width of one layer's activations.
        num_classes: Classes (softmax, 2 for a binary task), labels (multi-label, sigmoid) or 1 (regression).
        hidden_features: Width of each hidden layer.
        num_hidden_layers: How many hidden layers; at least 1.
        dropout: Share of hidden units silenced in training, in [0, 1).
        activation: One of `ACTIVATIONS`.

    Raises:
        ValueError: An argument is out of its range.

    Example:
        >>> import torch
        >>> MLPProbe(4, 3, hidden_features=8, num_hidden_layers=2)(torch.zeros(5, 4)).shape
        torch.Size([5, 3])
    """

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        hidden_features: int = 256,
        num_hidden_layers: int = 1,
        dropout: float = 0.1,
        activation: str = "gelu",
    ) -> None:
        super().__init__()
        _check(hidden_features, num_hidden_layers, dropout, activation)
        blocks: list[nn.Module] = []
        for width in [in_features] + [hidden_features] * (num_hidden_layers - 1):
            blocks += [nn.Linear(width, hidden_features), ACTIVATIONS[activation](), nn.Dropout(dropout)]
        self.hidden = nn.Sequential(*blocks)
        self.output = nn.Linear(hidden_features, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map activations `(batch, in_features)` to logits `(batch, num_classes)`, with no softmax or sigmoid."""
        return self.output(self.hidden(x))


def _check(hidden_features: int, num_hidden_layers: int, dropout: float, activation: str) -> None:
    for key, value in (("hidden_features", hidden_features), ("num_hidden_layers", num_hidden_layers)):
        if value < 1:
            raise ValueError(
                f"An MLP probe expects at least 1; got {value}: set `probe.architecture.{key}` to 1 or more."
            )
    if not 0 <= dropout < 1:
        raise ValueError(f"Dropout is a share in [0, 1); got {dropout}. Set `probe.architecture.dropout` so.")
    if activation not in ACTIVATIONS:
        raise ValueError(
            f"There is no activation '{activation}' for an MLP probe. There are {', '.join(ACTIVATIONS)}. "
            "Set `probe.architecture.activation` to one of these."
        )
