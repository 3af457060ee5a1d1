"""The multi-layer perceptron: what a probe with hidden layers can decode from a layer."""

from __future__ import annotations

from torch import Tensor, nn

ACTIVATION_FUNCTIONS: dict[str, type[nn.Module]] = {
    "gelu": nn.GELU,
    "relu": nn.ReLU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
}


class MLPProbe(nn.Module):
    """Hidden layers of `Linear → activation function → Dropout`, then one affine map.

    Args:
        in_features: Width of one layer's activations.
        num_classes: Number of classes (softmax; 2 for a binary task) or labels (sigmoid); 1 for regression.
        hidden_features: Width of each hidden layer.
        num_hidden_layers: Number of hidden layers; at least 1.
        dropout: Probability that a hidden unit is set to 0 in training, in [0, 1).
        activation: Name of the activation function, a key of `ACTIVATION_FUNCTIONS`.

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
        _check_arguments(hidden_features, num_hidden_layers, dropout, activation)
        blocks: list[nn.Module] = []
        for width in [in_features] + [hidden_features] * (num_hidden_layers - 1):
            blocks += [nn.Linear(width, hidden_features), ACTIVATION_FUNCTIONS[activation](), nn.Dropout(dropout)]
        self.hidden = nn.Sequential(*blocks)
        self.output = nn.Linear(hidden_features, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map activations `(batch, in_features)` to logits `(batch, num_classes)`, before any softmax or sigmoid."""
        return self.output(self.hidden(x))


def _check_arguments(hidden_features: int, num_hidden_layers: int, dropout: float, activation: str) -> None:
    for key, value in (("hidden_features", hidden_features), ("num_hidden_layers", num_hidden_layers)):
        if value < 1:
            raise ValueError(f"`probe.architecture.{key}` must be at least 1; got {value}.")
    if not 0 <= dropout < 1:
        raise ValueError(f"`probe.architecture.dropout` must be at least 0 and below 1; got {dropout}.")
    if activation not in ACTIVATION_FUNCTIONS:
        raise ValueError(
            f"MLPProbe has no activation function '{activation}'. There are {', '.join(ACTIVATION_FUNCTIONS)}. "
            "Set `probe.architecture.activation` to one of these."
        )
