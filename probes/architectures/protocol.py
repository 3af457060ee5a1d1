"""How to write a probe architecture: what a class must bring to be trained as a probe, and what it may bring.

A probe sees one layer's activations and never learns that it is trained in a bank, stacked with the probes of other
layers, penalties and controls. Only the constructor and `forward` are required. Three optional methods, found by name,
replace the defaults of minibatch training:

| method | returns | default |
|---|---|---|
| `loss(logits, targets)` | the loss of each row `(batch,)`, or their mean as a scalar | by kind of task, see below |
| `penalty()` | a scalar added to the mean loss, beside that of `probe.penalties` | 0 |
| `configure_optimizer(params)` | the optimizer of the stacked parameters | AdamW |

- `loss` receives logits `(batch, num_classes)` and targets: class indices `(batch,)` int64 (default: cross-entropy),
  0/1 entries `(batch, labels)` float32 (default: binary cross-entropy, summed over labels), or standardised numbers
  `(batch,)` float32 (default: squared error). `probe.class_weights` needs the loss of each row.
- `configure_optimizer` receives the parameters of the whole bank, each with the probes as its first axis. The optimizer
  must update every element on its own, as SGD and Adam do; otherwise the probes would influence each other.
- `forward` runs under `torch.func.vmap`. Where that is impossible (an LSTM, branches on values, random numbers other
  than those of `nn.Dropout`), the probes run one after the other: slower, with the same results.

A probe with the class attribute `reads_tokens = True` reads every token of a text instead of one vector: it is called
with activations `(batch, tokens, in_features)`, padded on the right, and a mask, bool `(batch, tokens)`, that is true
where a token is. Its logits must not depend on what stands at padding; `AttentionProbe` is an example.

Example:
    A probe that scores a class by the distance to a learned prototype:

    >>> import torch
    >>> from torch import Tensor, nn
    >>> from torch.nn import functional
    >>> class PrototypeProbe(nn.Module):
    ...     def __init__(self, in_features: int, num_classes: int, scale: float = 1.0) -> None:
    ...         super().__init__()
    ...         self.prototypes = nn.Parameter(torch.randn(num_classes, in_features))
    ...         self.scale = scale
    ...
    ...     def forward(self, x: Tensor) -> Tensor:
    ...         differences = x[:, None] - self.prototypes  # (batch, num_classes, in_features)
    ...         return -self.scale * differences.square().mean(-1)
    ...
    ...     def loss(self, logits: Tensor, targets: Tensor) -> Tensor:  # optional
    ...         return functional.cross_entropy(logits, targets, label_smoothing=0.1, reduction="none")
    ...
    ...     def penalty(self) -> Tensor:  # optional
    ...         return 1e-3 * self.prototypes.square().sum()
    ...
    ...     def configure_optimizer(self, params: list[nn.Parameter]) -> torch.optim.Optimizer:  # optional
    ...         return torch.optim.SGD(params, lr=0.5, momentum=0.9)

    Train it from Python, on activations `(layers, rows, features)` whose second layer holds the label:

    >>> from functools import partial
    >>> from probes.training import fit_probes
    >>> labels = torch.arange(120) % 3
    >>> activations = torch.randn(2, 120, 8, generator=torch.Generator().manual_seed(0))
    >>> activations[1] += 3 * functional.one_hot(labels, 8)
    >>> architecture = partial(PrototypeProbe, scale=2.0)
    >>> fit = fit_probes(activations, labels, architecture=architecture, penalties=(0.0,), max_epochs=20, folds=2)
    >>> fit.validation_best_layer
    1

    Or, with the class in `my_probes.py`, from the command line:

        python train.py probe.architecture._target_=my_probes.PrototypeProbe +probe.architecture.scale=2.0
"""

from __future__ import annotations

from typing import Any, Literal, Protocol

from torch import nn

Outputs = Literal["classes", "tokens", "token pairs"]
"""What a probe gives for a row, in its class attribute `outputs`: logits of classes, which is the default; or a number
for each token or for each pair of tokens, as structural probes do, which bring their own loss."""


class ProbeArchitecture(Protocol):
    """What constructs one probe: an `nn.Module` class, or a `functools.partial` of one that sets its other arguments.

    Probes can be saved if the class can be imported by name and its arguments can be written as JSON.
    """

    def __call__(self, in_features: int, num_classes: int, /) -> nn.Module:
        """Construct a probe.

        Args:
            in_features: Width of one layer's activations.
            num_classes: Number of classes or labels, or 1 for regression: the width of the probe's logits.

        Returns:
            A module that maps activations `(batch, in_features)` to logits `(batch, num_classes)`.
        """
        ...


def reads_tokens(probe: Any) -> bool:
    """Whether a probe, its class or a partial of it reads every token of a text, not one vector."""
    return bool(getattr(getattr(probe, "func", probe), "reads_tokens", False))
