"""Linear probes in closed form from second moments: ridge regression on labels, and linear discriminants.

With standardised rows z of n training rows and encoded targets y (a column for each class or label, or a number),

    R = Σ z zᵀ / n        C = Σ z (y − ȳ)ᵀ / n

hold all that either needs, so that rows are seen twice (for means and deviations, and for these sums) and need not fit
in memory. One eigendecomposition of R serves all penalties λ. The solutions are those of all rows at once, exact but
for rounding: products of a block are float32, sums of blocks and everything after that float64.

- **Ridge** minimises the mean of |W z + b − y|² plus λ/2 · ‖W‖²: W = (R + λ/2)⁻¹ C, b = ȳ, as the exact solver does
  for regression. For classes the targets are columns of 0 and 1, and the largest output wins; a label of several is
  predicted where its output exceeds 1/2.
- **LDA** takes rows of class k for normal about their mean m_k with a common covariance S, that of rows about the means
  of their classes, shrunk by λ: the logit of class k is z·(S + λ)⁻¹m_k − m_k·(S + λ)⁻¹m_k / 2 + log(n_k / n).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from probes.metrics import TargetKind
from probes.training.bank.probe_module import Standardiser
from probes.training.data_module import Rows
from probes.training.streamed_rows import StreamedRows, TensorRows

CLOSED_FORMS = ("ridge", "lda")


@dataclass(frozen=True)
class SecondMoments:
    """Moments of standardised rows and their targets, of one labelling after another; float64.

    Attributes:
        rows: Number of rows n.
        within: R, shape `(layers, features, features)`.
        cross: C, shape `(layers, features, labellings × columns)`.
        target_means: ȳ, shape `(labellings × columns,)`.
        labellings: The true targets and the controls.
    """

    rows: int
    within: Tensor
    cross: Tensor
    target_means: Tensor
    labellings: int

    @classmethod
    def of(cls, values: Tensor | StreamedRows, targets: Tensor, standardiser: Standardiser) -> SecondMoments:
        """Sum over rows.

        Args:
            values: Raw activations, `(layers, rows, features)`.
            targets: Encoded targets, `(labellings, rows, columns)`.
            standardiser: Statistics of the rows.
        """
        streamed = values if isinstance(values, StreamedRows) else StreamedRows(TensorRows(values))
        layers, rows, features = streamed.shape
        columns = targets.transpose(0, 1).flatten(1)  # (rows, labellings × columns)
        means = columns.double().mean(0)
        within = torch.zeros(layers, features, features, dtype=torch.float64)
        cross = torch.zeros(layers, features, columns.shape[1], dtype=torch.float64)
        for places, block in streamed.blocks():
            z = standardiser(block)
            within += z.mT @ z
            cross += z.mT @ (columns[places] - means).float()
        return cls(rows, within / rows, cross / rows, means, len(targets))


def solve_closed_form(
    form: str, kind: TargetKind, train: Rows, penalties: Sequence[float], *, classes: int
) -> tuple[Tensor, Tensor, Standardiser]:
    """Linear probes of every layer, penalty and labelling.

    Args:
        form: `ridge` or `lda`.
        kind: Kind of task.
        train: Training rows, of equal weight.
        penalties: λ.
        classes: Width of the logits.

    Returns:
        Weights `(layers, penalties, labellings, classes, features)` and biases without the last axis, float32, for
        standardised rows; and what standardises them.

    Raises:
        ValueError: Rows have weights; or `lda` is asked to predict what is no class.
    """
    if form == "lda" and kind != "classification":
        raise ValueError(
            f"Linear discriminants tell classes apart; the task is a {kind}. Set `probe.fit=ridge`, or auto."
        )
    if not bool((train.weights == 1).all()):
        raise ValueError(
            f"`probe.fit={form}` counts every row once. Set `probe.class_weights=null` and `probe.training_sets=0`, or "
            "`probe.fit=exact`."
        )
    assert isinstance(train.values, Tensor | StreamedRows)  # rows of one vector
    standardiser, _ = Standardiser.of(train.values)
    moments = SecondMoments.of(train.values, _encoded(kind, train.targets, classes), standardiser)
    solve = _ridge if form == "ridge" else _discriminants
    layers = [solve(moments, layer, penalties) for layer in range(len(moments.within))]
    weights, biases = (torch.stack(part).float() for part in zip(*layers, strict=True))
    if kind == "multilabel":
        biases -= 0.5  # a label is predicted where its output is nearer to 1 than to 0
    return weights, biases, standardiser


def _encoded(kind: TargetKind, targets: Tensor, classes: int) -> Tensor:
    """Targets as columns of numbers, float32 `(labellings, rows, columns)`."""
    if kind == "classification":
        return functional.one_hot(targets, classes).float()
    return targets.float()[..., None] if kind == "regression" else targets.float()


def _ridge(moments: SecondMoments, layer: int, penalties: Sequence[float]) -> tuple[Tensor, Tensor]:
    """Weights `(penalties, labellings, classes, features)` and biases of one layer."""
    shares, axes = torch.linalg.eigh(moments.within[layer])
    rotated = axes.mT @ moments.cross[layer]  # (features, labellings × classes)
    by_penalty = [axes @ (rotated / (shares.clamp_min(0) + penalty / 2)[:, None]) for penalty in penalties]
    weights = torch.stack(by_penalty).mT.unflatten(1, (moments.labellings, -1))
    biases = moments.target_means.view(moments.labellings, -1).expand(len(penalties), -1, -1)
    return weights, biases


def _discriminants(moments: SecondMoments, layer: int, penalties: Sequence[float]) -> tuple[Tensor, Tensor]:
    """Weights `(penalties, labellings, classes, features)` and biases of one layer."""
    solutions = [_of_labelling(moments, layer, penalties, number) for number in range(moments.labellings)]
    weights, biases = (torch.stack(part, dim=1) for part in zip(*solutions, strict=True))
    return weights, biases


def _of_labelling(
    moments: SecondMoments, layer: int, penalties: Sequence[float], labelling: int
) -> tuple[Tensor, Tensor]:
    """Weights `(penalties, classes, features)` and biases `(penalties, classes)`."""
    shares = moments.target_means.view(moments.labellings, -1)[labelling]  # n_k / n
    sums = moments.cross[layer].unflatten(1, (moments.labellings, -1))[:, labelling].mT  # n_k m_k / n
    means = sums / shares.clamp_min(1 / moments.rows)[:, None]  # (classes, features)
    between = sums.mT @ means  # Σ n_k/n m_k m_kᵀ
    spread, axes = torch.linalg.eigh(moments.within[layer] - between)
    rotated = means @ axes
    weights = torch.stack([(rotated / (spread.clamp_min(0) + penalty)) @ axes.mT for penalty in penalties])
    biases = shares.clamp_min(1 / moments.rows).log() - (weights * means).sum(-1) / 2
    return weights, biases
