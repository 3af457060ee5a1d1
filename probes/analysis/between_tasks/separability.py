"""How far apart do groups of samples, such as tasks, lie at every layer; and their map in the plane."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from probes.analysis.invariances import by_layer, invariant_to, require_rows
from probes.analysis.similarity.hsic import centre_rows, is_constant
from probes.analysis.similarity.neighbours import distance_matrix


@invariant_to("rotation", "scale", "shift")
def silhouette(x: Tensor, groups: Tensor) -> Tensor:
    """Mean over rows of how much nearer a row is to its own group than to the nearest other, by Euclidean distance.

    For a row, a is the mean distance to the rest of its group, b the least mean distance to another group, and its
    silhouette (b − a) / max(a, b); 0 if it is alone in its group or a = b = 0. Unrelated groups give a little less than
    0, as b is the least of several, and in many dimensions all distances, and so a and b, are nearly alike: values are
    small even for groups that a linear probe tells apart.

    Args:
        x: Shape `(layers, rows, features)`.
        groups: Group of every row, integers of shape `(rows,)`, in any numbering.

    Returns:
        float64, shape `(layers,)`, in [−1, 1]; NaN where a layer is constant.

    Raises:
        ValueError: Fewer than 4 rows, non-finite rows, fewer than 2 groups, as many groups as rows.

    Source:
        Rousseeuw 1987, Journal of Computational and Applied Mathematics 20.
    """
    return silhouette_of_draws(x, groups, [torch.arange(x.shape[1])])[0]


def silhouette_of_draws(x: Tensor, groups: Tensor, draws: Sequence[Tensor]) -> Tensor:
    """`silhouette` of some of the rows, several times: all distances are measured once.

    Args:
        x: As in `silhouette`.
        groups: As in `silhouette`.
        draws: Positions of the rows of each draw, int64.

    Returns:
        float64, shape `(draws, layers)`.

    Raises:
        ValueError: As in `silhouette`, for any draw.
    """
    members = _members_of_draws(x, groups, draws)
    values = []
    for layer in x:
        distances = distance_matrix(layer.double())
        values.append(torch.stack([_silhouette(distances[d][:, d], m) for d, m in zip(draws, members, strict=True)]))
    return torch.stack(values, dim=1)


@invariant_to("rotation", "scale", "shift")
def between_share(x: Tensor, groups: Tensor, *, debiased: bool = True) -> Tensor:
    """Share of the total variance, summed over features, that lies between the means of groups.

    Args:
        x: Shape `(layers, rows, features)`.
        groups: Group of every row, integers of shape `(rows,)`, in any numbering.
        debiased: With `True` ε² = 1 − (within / (rows − groups)) / (total / (rows − 1)), which for unrelated groups is
            0 on average, negatives included. With `False` η², which is then (groups − 1) / (rows − 1) on average.

    Returns:
        float64, shape `(layers,)`, at most 1; NaN where a layer is constant.

    Raises:
        ValueError: Fewer than 4 rows, non-finite rows, fewer than 2 groups, as many groups as rows.

    Source:
        ε²: Kelley 1935, PNAS 21.

    >>> x = torch.tensor([[[0.0], [2.0], [10.0], [12.0]]])
    >>> round(between_share(x, torch.tensor([0, 0, 1, 1]), debiased=False).item(), 4)  # 100 of 104
    0.9615
    """
    return between_share_of_draws(x, groups, [torch.arange(x.shape[1])], debiased=debiased)[0]


def between_share_of_draws(x: Tensor, groups: Tensor, draws: Sequence[Tensor], *, debiased: bool = True) -> Tensor:
    """`between_share` of some of the rows, several times: one product a layer sums the groups of every draw.

    Args:
        x: As in `between_share`.
        groups: As in `between_share`.
        draws: Positions of the rows of each draw, int64.
        debiased: As in `between_share`.

    Returns:
        float64, shape `(draws, layers)`.

    Raises:
        ValueError: As in `between_share`, for any draw.
    """
    members = _members_of_draws(x, groups, draws)
    rows, counts = (torch.tensor([m.shape[side] for m in members]).to(members[0].device) for side in (0, 1))
    inflation = (rows - 1).double() / (rows - counts) if debiased else 1.0
    chosen = torch.cat([_spread_out(m, draw, x.shape[1]) for m, draw in zip(members, draws, strict=True)], dim=1)
    draw_of_group = torch.arange(len(draws), device=x.device).repeat_interleave(counts)

    def of_draw(of_groups: Tensor) -> Tensor:
        return of_groups.new_zeros(len(draws), *of_groups.shape[1:]).index_add_(0, draw_of_group, of_groups)

    values = []
    for layer in x:
        centred = layer.double() - layer.double().mean(dim=0)
        sums, squares = chosen.T @ centred, of_draw(chosen.T @ centred.square().sum(dim=1))
        within = squares - of_draw(sums.square().sum(dim=1) / chosen.sum(dim=0))
        total = squares - of_draw(sums).square().sum(dim=1) / rows
        values.append(1 - inflation * within / total)
    constant = torch.stack([is_constant(x[:, draw]) for draw in draws])
    return torch.stack(values, dim=1).masked_fill(constant, torch.nan)


@invariant_to("scale", "shift")
def group_identity_accuracy(x: Tensor, groups: Tensor, *, seed: int, folds: int = 5, penalty: float = 1.0) -> Tensor:
    """How well a linear map, fitted on other rows, tells which group a row is from: cross-validated balanced accuracy.

    Ridge regression on one-hot groups, every group weighing the same, features standardised on the training folds. The
    map minimises the mean squared error plus `penalty` × ‖W‖², with a free bias. Every row is predicted once; the
    value is the mean over groups of the share of its rows that get the largest output for their group.

    By chance it is 1 / groups, of equal size or not (means of 200 layers of noise, 120 rows: within 0.005). It is high
    also where groups differ in nothing but a wording their texts share, and where duplicates fall in different folds.

    Args:
        x: Shape `(layers, rows, features)`.
        groups: Group of every row, integers of shape `(rows,)`, in any numbering.
        seed: Which rows share a fold; folds hold groups in equal shares, and are the same for all layers.
        folds: Number of folds, from 2 to the size of the smallest group.
        penalty: Positive; of standardised features, so dimensionless.

    Returns:
        float64, shape `(layers,)`, in [0, 1]; NaN where a layer is constant.

    Raises:
        ValueError: Fewer than 4 rows, non-finite rows, fewer than 2 groups, a group smaller than `folds`, `folds` or
            `penalty` out of range.
    """
    require_rows(x)
    numbers = _group_numbers(x, groups)
    if not penalty > 0:
        raise ValueError(f"`penalty` expects a positive number; got {penalty}.")
    smallest = int(numbers.bincount().min())
    if not 2 <= folds <= smallest:
        raise ValueError(
            f"`folds` expects 2 or more, but no more than the smallest group has rows, {smallest}; got {folds}."
        )
    fold_of_row = _stratified_folds(numbers, folds, seed)
    return by_layer(lambda layer: _balanced_accuracy(layer, numbers, fold_of_row, penalty), x)


def _group_numbers(x: Tensor, groups: Tensor) -> Tensor:
    """Groups renumbered from 0 without gaps, on the device of `x`."""
    rows = x.shape[1]
    if groups.shape != (rows,) or groups.is_floating_point():
        raise ValueError(
            f"`groups` expects one integer a row, shape ({rows},); got {groups.dtype}, shape {tuple(groups.shape)}."
        )
    names, numbers = groups.to(x.device).unique(return_inverse=True)
    if not 2 <= len(names) < rows:
        raise ValueError(f"At least 2 groups, and fewer than the {rows} rows, are wanted; got {len(names)}.")
    return numbers


def _members_of_draws(x: Tensor, groups: Tensor, draws: Sequence[Tensor]) -> list[Tensor]:
    """Which row of each draw is in which of its groups: 0 and 1, float64 `(rows of the draw, its groups)`."""
    require_rows(x)
    numbers, members = _group_numbers(x, groups), []
    for draw in draws:
        require_rows(x[:1, draw])
        members.append(functional.one_hot(_group_numbers(x[:1, draw], numbers[draw])).double())
    return members


def _spread_out(members: Tensor, draw: Tensor, rows: int) -> Tensor:
    """Members of a draw among all rows, those not drawn in no group."""
    return members.new_zeros(rows, members.shape[1]).index_copy_(0, draw.to(members.device), members)


def _silhouette(distances: Tensor, members: Tensor) -> Tensor:
    sizes, own = members.sum(dim=0), members.bool()
    distance_sums = distances @ members
    within = distance_sums[own] / (sizes - 1).clamp(min=1)[members.argmax(dim=1)]
    nearest_other = (distance_sums / sizes).masked_fill(own, torch.inf).amin(dim=1)
    larger = torch.maximum(within, nearest_other)
    counted = (members @ sizes > 1) & (larger > 0)
    mean = torch.where(counted, (nearest_other - within) / larger, 0.0).mean()
    return torch.where((distances > 0).any(), mean, torch.nan)


def _stratified_folds(numbers: Tensor, folds: int, seed: int) -> Tensor:
    """Rows in random order, sorted by group, are dealt to the folds in turn."""
    order = torch.randperm(len(numbers), generator=torch.Generator().manual_seed(seed)).to(numbers.device)
    order = order[numbers[order].argsort(stable=True)]
    return torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device) % folds)


def _balanced_accuracy(layer: Tensor, numbers: Tensor, fold_of_row: Tensor, penalty: float) -> Tensor:
    predicted = torch.empty_like(numbers)
    for fold in fold_of_row.unique():
        train = fold_of_row != fold
        targets = functional.one_hot(numbers[train]).double()
        predicted[~train] = _ridge_scores(layer[train], targets, layer[~train], penalty).argmax(dim=1)
    hits = (predicted == numbers).double()
    return (numbers.bincount(hits) / numbers.bincount()).mean()


def _ridge_scores(train: Tensor, targets: Tensor, test: Tensor, penalty: float) -> Tensor:
    """Outputs for `test`, shape `(rows, groups)`, less the bias, which is the same for every group."""
    spread = torch.where(train.amax(dim=0) > train.amin(dim=0), train.std(dim=0, correction=0), 1.0)
    train, test = train / spread, test / spread
    weights = (targets / targets.sum(dim=0)).sum(dim=1, keepdim=True) / targets.shape[1]
    mean = (weights * train).sum(dim=0)
    root = weights.sqrt()
    inputs, outputs = root * (train - mean), root * targets
    rows, features = inputs.shape
    if rows < features:
        return (test - mean) @ inputs.T @ _solve(inputs @ inputs.T, outputs, penalty)
    return (test - mean) @ _solve(inputs.T @ inputs, inputs.T @ outputs, penalty)


def _solve(gram: Tensor, outputs: Tensor, penalty: float) -> Tensor:
    ridge = torch.linalg.cholesky(gram + penalty * torch.eye(len(gram), dtype=gram.dtype, device=gram.device))
    return torch.cholesky_solve(outputs, ridge)


_COMPONENTS = 50
"""Principal components kept first: distances hardly change and t-SNE is spared hundreds of features."""


def tsne_points(rows: Tensor, *, perplexity: float = 30.0, seed: int = 0) -> np.ndarray:
    """t-SNE coordinates of one layer's rows; they show neighbours, not distances.

    Args:
        rows: Shape `(rows, features)`.
        perplexity: About how many neighbours each row attends to; at most a third of the rows.
        seed: Decides the order of gradient descent; the start is the first two principal components.

    Returns:
        float64, shape `(rows, 2)`; NaN if all rows are equal.

    Source:
        van der Maaten and Hinton 2008, JMLR 9.
    """
    from sklearn.manifold import TSNE  # half a second to import, wanted by few

    if is_constant(rows[None]).item():
        return np.full((len(rows), 2), np.nan)
    left, scale, _ = torch.linalg.svd(centre_rows(rows[None])[0].double(), full_matrices=False)
    reduced = (left * scale)[:, :_COMPONENTS].numpy(force=True)
    method = TSNE(perplexity=min(perplexity, (len(rows) - 1) / 3), init="pca", random_state=seed)
    return method.fit_transform(reduced).astype(np.float64)
