"""What a class of the user's own must and may bring to be trained as a probe."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol, runtime_checkable

from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer

OPTIONAL_METHODS = ("loss", "penalty", "configure_optimizer")


@runtime_checkable
class ProbeArchitecture(Protocol):
    """What training calls on one probe. Only calling the module itself is required.

    A class is constructed as `cls(in_features, num_classes, **own)`. It never learns that it is stacked with the probes
    of other layers: `loss` and `penalty` see one probe's tensors. Three optional methods, looked up by name
    (`OPTIONAL_METHODS`), replace the defaults:

    - `loss(logits, targets)`: a loss a row `(batch,)`, or its mean as a scalar, for logits `(batch, num_classes)`.
      Targets are class indices `(batch,)` int64, 0/1 entries `(batch, labels)` float32, or standardised numbers
      `(batch,)` float32. Class weights need a loss a row. Default: cross-entropy, or squared error for regression.
    - `penalty()`: a scalar of the probe's parameters that is added to its loss beside `probe.penalties`. Default: 0.
    - `configure_optimizer(params)`: the optimizer of the *stacked* parameters, each with the probes as its first axis.
      It must act on every element alone (SGD, Adam and their kin), or probes would influence each other. Default:
      AdamW.
    """

    def __call__(self, x: Tensor, /) -> Tensor:
        """Map activations `(batch, in_features)` to logits `(batch, num_classes)`."""
        ...


class OwnLoss(Protocol):
    """A probe that brings its own loss."""

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Loss of each row `(batch,)`, or their mean."""
        ...


class OwnPenalty(Protocol):
    """A probe that brings its own penalty term."""

    def penalty(self) -> Tensor:
        """Scalar added to the probe's mean loss."""
        ...


class OwnOptimizer(Protocol):
    """A probe that brings its own optimizer."""

    def configure_optimizer(self, params: Iterable[Parameter]) -> Optimizer:
        """Optimizer of the stacked parameters."""
        ...
