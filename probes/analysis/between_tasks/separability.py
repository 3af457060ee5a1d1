"""How well groups of rows, such as tasks, are separated at every layer, and a map of one layer's rows in the plane."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from probes.analysis.invariances import by_layer, invariant_to, require_rows
from probes.analysis.similarity.hsic import centre_rows, is_constant
from probes.analysis.similarity.neighbours import distance_matrix

_TSNE_COMPONENTS = 50
"""Principal components that t-SNE is given: distances hardly change, and it is spared hundreds of features."""


@invariant_to("rotation", "scale", "shift")
def silhouette(x: Tensor, groups: Tensor) -> Tensor:
    """Mean silhouette coefficient of the rows, by Euclidean distance.

    With a the mean distance of a row to the other rows of its group and b the smallest mean distance to another group,
    the silhouette of the row is (b − a) / max(a, b). It is 0 for a row that is alone in its group, and where a = b = 0.

    Unrelated groups give slightly less than 0, because b is the smallest of several means. In many dimensions distances
    concentrate, so a and b are nearly equal and values are small even for groups that a linear probe separates.

    Args:
        x: Shape `(layers, rows, features)`.
        groups: Group of every row, integers of shape `(rows,)`, in any numbering.

    Returns:
        float64, shape `(layers,)`, in [−1, 1]; NaN where a layer is constant.

    Raises:
        ValueError: Fewer than 4 rows, rows that are not finite, fewer than 2 groups, or as many groups as rows.

    Source:
        Rousseeuw 1987, Journal of Computational and Applied Mathematics 20.
    """
    return silhouette_of_draws(x, groups, [torch.arange(x.shape[1])])[0]


def silhouette_of_draws(x: Tensor, groups: Tensor, draws: Sequence[Tensor]) -> Tensor:
    """`silhouette` of several subsets of the rows, computing all distances only once.

    Args:
        x: As in `silhouette`.
        groups: As in `silhouette`.
        draws: Row positions of each subset, int64.

    Returns:
        float64, shape `(draws, layers)`.

    Raises:
        ValueError: As in `silhouette`, for any subset.
    """
    members = _members_of_draws(x, groups, draws)
    values = []
    for layer in x:
        distances = distance_matrix(layer.double())
        values.append(torch.stack([_silhouette(distances[d], d, m) for d, m in zip(draws, members, strict=True)]))
    return torch.stack(values, dim=1)


@invariant_to("rotation", "scale", "shift")
def between_share(x: Tensor, groups: Tensor, *, debiased: bool = True) -> Tensor:
    """Share of the variance, summed over features, that lies between group means (one-way analysis of variance).

    With SS the sums of squares within groups and in total, n rows and k groups:

        η² = 1 − SS_within / SS_total                            biased: (k − 1) / (n − 1) on average without an effect
        ε² = 1 − (SS_within / (n − k)) / (SS_total / (n − 1))    0 on average without an effect; may be negative

    Args:
        x: Shape `(layers, rows, features)`.
        groups: Group of every row, integers of shape `(rows,)`, in any numbering.
        debiased: ε² if true, else η².

    Returns:
        float64, shape `(layers,)`, at most 1; NaN where a layer is constant.

    Raises:
        ValueError: Fewer than 4 rows, rows that are not finite, fewer than 2 groups, or as many groups as rows.

    Source:
        ε²: Kelley 1935, PNAS 21.

    >>> x = torch.tensor([[[0.0], [2.0], [10.0], [12.0]]])
    >>> round(between_share(x, torch.tensor([0, 0, 1, 1]), debiased=False).item(), 4)  # 100 of 104
    0.9615
    """
    return between_share_of_draws(x, groups, [torch.arange(x.shape[1])], debiased=debiased)[0]


def between_share_of_draws(x: Tensor, groups: Tensor, draws: Sequence[Tensor], *, debiased: bool = True) -> Tensor:
    """`between_share` of several subsets of the rows: one matrix product per layer sums the groups of all subsets.

    Args:
        x: As in `between_share`.
        groups: As in `between_share`.
        draws: Row positions of each subset, int64.
        debiased: As in `between_share`.

    Returns:
        float64, shape `(draws, layers)`.

    Raises:
        ValueError: As in `between_share`, for any subset.
    """
    members = _members_of_draws(x, groups, draws)
    rows, counts = (torch.tensor([m.shape[side] for m in members]).to(members[0].device) for side in (0, 1))  # n, k
    inflation = (rows - 1).double() / (rows - counts) if debiased else 1.0
    # 0/1 of shape (rows, groups of all draws), and the draw that each of its columns belongs to
    member_of = torch.cat([_among_all_rows(m, d, x.shape[1]) for m, d in zip(members, draws, strict=True)], dim=1)
    draw_of_group = torch.arange(len(draws), device=x.device).repeat_interleave(counts)

    def sum_by_draw(by_group: Tensor) -> Tensor:
        return by_group.new_zeros(len(draws), *by_group.shape[1:]).index_add_(0, draw_of_group, by_group)

    values = []
    for layer in x:
        about_mean = layer.double() - layer.double().mean(dim=0)  # sums of squares below lose fewer digits
        sums = member_of.T @ about_mean  # (groups of all draws, features)
        squares = sum_by_draw(member_of.T @ about_mean.square().sum(dim=1))
        # SS_within = Σ‖x‖² − Σ_g ‖S_g‖² / n_g and SS_total = Σ‖x‖² − ‖Σ_g S_g‖² / n, with S_g the sum of group g
        within = squares - sum_by_draw(sums.square().sum(dim=1) / member_of.sum(dim=0))
        total = squares - sum_by_draw(sums).square().sum(dim=1) / rows
        values.append(1 - inflation * within / total)
    constant = torch.stack([is_constant(x[:, draw]) for draw in draws])
    return torch.stack(values, dim=1).masked_fill(constant, torch.nan)


@invariant_to("scale", "shift")
def group_identity_accuracy(x: Tensor, groups: Tensor, *, seed: int, folds: int = 5, penalty: float = 1.0) -> Tensor:
    """Cross-validated balanced accuracy of a linear classifier that predicts each row's group.

    The classifier is ridge regression on one-hot groups: it minimises the mean squared error, in which every group has
    the same weight, plus `penalty` × ‖W‖², with an unpenalised bias. Features are standardised on the training folds.
    Every row is predicted once, from the other folds; the value is the mean over groups of the share of rows for which
    the output of their group is the largest.

    The chance level is 1 / groups, whether or not groups have equal sizes (over 200 layers of noise with 120 rows, the
    mean is within 0.005 of it). Values are also high where groups differ only in a wording that their texts share, and
    where duplicates of a row fall in different folds.

    Args:
        x: Shape `(layers, rows, features)`.
        groups: Group of every row, integers of shape `(rows,)`, in any numbering.
        seed: Determines the folds, which are stratified by group and the same for all layers.
        folds: Number of folds, from 2 to the size of the smallest group.
        penalty: Positive; dimensionless, because features are standardised.

    Returns:
        float64, shape `(layers,)`, in [0, 1]; NaN where a layer is constant.

    Raises:
        ValueError: Fewer than 4 rows, rows that are not finite, fewer than 2 groups, a group smaller than `folds`, or
            `folds` or `penalty` out of range.
    """
    require_rows(x)
    numbers = _group_numbers(x, groups)
    if not penalty > 0:
        raise ValueError(f"`penalty` must be positive; got {penalty}.")
    smallest = int(numbers.bincount().min())
    if not 2 <= folds <= smallest:
        raise ValueError(f"`folds` must be from 2 to {smallest}, the rows of the smallest group; got {folds}.")
    fold_of_row = _stratified_folds(numbers, folds, seed)
    return by_layer(lambda layer: _balanced_accuracy(layer, numbers, fold_of_row, penalty), x)


def tsne_points(rows: Tensor, *, perplexity: float = 30.0, seed: int = 0) -> np.ndarray:
    """t-SNE coordinates of one layer's rows, in which neighbourhoods are meaningful but distances are not.

    Args:
        rows: Shape `(rows, features)`.
        perplexity: Roughly the number of neighbours that each row attends to; reduced to a third of the rows where it
            exceeds that.
        seed: Seed of the optimisation, which starts from the first two principal components.

    Returns:
        float64, shape `(rows, 2)`; NaN if all rows are equal.

    Source:
        van der Maaten and Hinton 2008, JMLR 9.
    """
    from sklearn.manifold import TSNE  # takes half a second to import, and most runs draw no map

    if is_constant(rows[None]).item():
        return np.full((len(rows), 2), np.nan)
    left, scale, _ = torch.linalg.svd(centre_rows(rows[None])[0].double(), full_matrices=False)
    components = (left * scale)[:, :_TSNE_COMPONENTS].numpy(force=True)
    tsne = TSNE(perplexity=min(perplexity, (len(rows) - 1) / 3), init="pca", random_state=seed)
    return tsne.fit_transform(components).astype(np.float64)


def _group_numbers(x: Tensor, groups: Tensor) -> Tensor:
    """Groups renumbered from 0 without gaps, on the device of `x`."""
    rows = x.shape[1]
    if groups.shape != (rows,) or groups.is_floating_point():
        raise ValueError(
            f"`groups` must hold one integer per row, shape ({rows},); got {groups.dtype} of shape "
            f"{tuple(groups.shape)}."
        )
    names, numbers = groups.to(x.device).unique(return_inverse=True)
    if not 2 <= len(names) < rows:
        raise ValueError(f"`groups` must name at least 2 groups, and fewer than the {rows} rows; got {len(names)}.")
    return numbers


def _members_of_draws(x: Tensor, groups: Tensor, draws: Sequence[Tensor]) -> list[Tensor]:
    """Which row of each draw belongs to which of its groups: 0 or 1, float64 `(rows of the draw, its groups)`."""
    require_rows(x)
    numbers, members = _group_numbers(x, groups), []
    for draw in draws:
        require_rows(x[:1, draw])
        members.append(functional.one_hot(_group_numbers(x[:1, draw], numbers[draw])).double())
    return members


def _among_all_rows(members: Tensor, draw: Tensor, rows: int) -> Tensor:
    """Members of a draw as `(all rows, its groups)`, with zeros for the rows that were not drawn."""
    return members.new_zeros(rows, members.shape[1]).index_copy_(0, draw.to(members.device), members)


def _silhouette(distances: Tensor, draw: Tensor, members: Tensor) -> Tensor:
    """Mean silhouette of a draw; NaN if all its rows are equal.

    Args:
        distances: Of each row of the draw to all rows, shape `(rows of the draw, all rows)`.
        draw: Positions of the draw among all rows.
        members: 0 or 1, shape `(rows of the draw, groups)`.
    """
    sizes, is_member = members.sum(dim=0), members.bool()
    # of each row to each group, (rows, groups); zeros for the rows not drawn cost less than a copy without them
    distance_sums = distances @ _among_all_rows(members, draw, distances.shape[1])
    # a row's distance to itself is 0, so the mean over the rest of its group divides by size − 1
    within = distance_sums[is_member] / (sizes - 1).clamp(min=1)[members.argmax(dim=1)]
    nearest_other = (distance_sums / sizes).masked_fill(is_member, torch.inf).amin(dim=1)
    larger = torch.maximum(within, nearest_other)
    is_defined = (members @ sizes > 1) & (larger > 0)
    mean = torch.where(is_defined, (nearest_other - within) / larger, 0.0).mean()
    return torch.where((distance_sums > 0).any(), mean, torch.nan)


def _stratified_folds(numbers: Tensor, folds: int, seed: int) -> Tensor:
    """Fold of every row: rows in random order, sorted by group, are assigned to the folds in rotation."""
    order = torch.randperm(len(numbers), generator=torch.Generator().manual_seed(seed)).to(numbers.device)
    order = order[numbers[order].argsort(stable=True)]
    return torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device) % folds)


def _balanced_accuracy(layer: Tensor, numbers: Tensor, fold_of_row: Tensor, penalty: float) -> Tensor:
    """Mean over groups of the share of rows predicted correctly from the other folds; `layer` is `(rows, features)`."""
    predicted = torch.empty_like(numbers)
    for fold in fold_of_row.unique():
        train = fold_of_row != fold
        targets = functional.one_hot(numbers[train]).double()
        predicted[~train] = _ridge_scores(layer[train], targets, layer[~train], penalty).argmax(dim=1)
    correct = (predicted == numbers).double()
    return (numbers.bincount(correct) / numbers.bincount()).mean()


def _ridge_scores(train: Tensor, targets: Tensor, test: Tensor, penalty: float) -> Tensor:
    """Outputs of the ridge regression for the rows of `test`, without the bias, which is the same for every group.

    Args:
        train: Shape `(train_rows, features)`.
        targets: One-hot groups, shape `(train_rows, groups)`.
        test: Shape `(test_rows, features)`.
        penalty: λ in the equations below.

    Returns:
        Shape `(test_rows, groups)`.
    """
    scale = torch.where(train.amax(dim=0) > train.amin(dim=0), train.std(dim=0, correction=0), 1.0)
    train, test = train / scale, test / scale
    # row weights, (train_rows, 1): they sum to 1, and every group has the same total
    weights = (targets / targets.sum(dim=0)).sum(dim=1, keepdim=True) / targets.shape[1]
    mean = (weights * train).sum(dim=0)
    root = weights.sqrt()
    inputs, outputs = root * (train - mean), root * targets
    rows, features = inputs.shape
    # with Z = inputs and Y = outputs, W = (ZᵀZ + λI)⁻¹ ZᵀY = Zᵀ (ZZᵀ + λI)⁻¹ Y: invert the smaller matrix
    if rows < features:
        return (test - mean) @ inputs.T @ _solve(inputs @ inputs.T, outputs, penalty)
    return (test - mean) @ _solve(inputs.T @ inputs, inputs.T @ outputs, penalty)


def _solve(gram: Tensor, outputs: Tensor, penalty: float) -> Tensor:
    """Solve (gram + penalty × I) w = outputs by Cholesky decomposition."""
    factor = torch.linalg.cholesky(gram + penalty * torch.eye(len(gram), dtype=gram.dtype, device=gram.device))
    return torch.cholesky_solve(outputs, factor)
