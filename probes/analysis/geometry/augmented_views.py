"""How well a layer recognises a text in altered copies of it: InfoNCE, DiME and LiDAR.

A *view* of a text is the text or an altered copy. A layer that keeps what a text says and drops how it was altered has
views of one text near each other and those of others far away. No labels are needed.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from probes.analysis.geometry.token_paths import entropy
from probes.analysis.similarity.leave_one_out import LeaveOneOut


def info_nce_bits(first: Tensor, second: Tensor, *, temperature: float = 0.1) -> Tensor:
    """Bits by which each text's view is recognised among the views of all texts: log2 n less the InfoNCE loss.

    A lower bound of the mutual information of two views; at most log2 n.

    Args:
        first: One view of each text, shape `(layers, texts, features)`.
        second: Another view of the same texts.
        temperature: Divides cosines.

    Returns:
        float64, of each text, shape `(layers, texts)`.

    Source:
        van den Oord, Li and Vinyals 2018, arXiv:1807.03748; for layers, Skean et al. 2025, arXiv:2502.02013.
    """
    cosines = _unit(first) @ _unit(second).mT / temperature  # (layers, texts, texts)
    right = cosines.diagonal(dim1=1, dim2=2)
    both = (right - cosines.logsumexp(2)) + (right - cosines.logsumexp(1))  # either view may be the one that is sought
    return (both / 2 + math.log(first.shape[1])) / math.log(2)


def info_nce_leave_one_out(first: Tensor, second: Tensor, *, temperature: float = 0.1) -> LeaveOneOut:
    """Mean of `info_nce_bits` over texts, of all texts and without each: as query, and as an alternative to others.

    Args:
        first: As in `info_nce_bits`, as are `second` and `temperature`; at least 3 texts.
        second: Another view of the same texts.
        temperature: Divides cosines.
    """
    cosines = _unit(first) @ _unit(second).mT / temperature
    texts = first.shape[1]
    both = torch.zeros(len(cosines), texts, texts, dtype=torch.float64)  # (layers, texts, the one left out)
    for of_queries in (cosines, cosines.mT):
        largest = of_queries.amax(2, keepdim=True)
        weights = (of_queries - largest).exp()
        others = weights.sum(2, keepdim=True) - weights
        both += of_queries.diagonal(dim1=1, dim2=2)[..., None] - largest - others.clamp_min(1e-300).log()
    queries = both.sum(1) - both.diagonal(dim1=1, dim2=2)  # a text that is left out is no query
    without = (queries / (texts - 1) / 2 + math.log(texts - 1)) / math.log(2)
    return LeaveOneOut(info_nce_bits(first, second, temperature=temperature).mean(1), without)


def dime(first: Tensor, second: Tensor, *, permutations: int = 10, seed: int = 0) -> Tensor:
    """Difference of matrix-based entropies (DiME): how much less diverse true pairs of views are than shuffled pairs.

    With Gram matrices K and L of the two views' cosines, E S(K ∘ πLπᵀ) − S(K ∘ L) over random orders π, where S is the
    entropy of the eigenvalues over their sum. In bits; 0 on average for unrelated views.

    Args:
        first: One view of each text, shape `(layers, texts, features)`.
        second: Another view of the same texts.
        permutations: Random orders.
        seed: Decides them.

    Returns:
        float64, shape `(layers,)`.

    Source:
        Skean et al. 2023, arXiv:2301.08164; for layers, Skean et al. 2025, arXiv:2502.02013.
    """
    kernel, other = (_unit(view) @ _unit(view).mT for view in (first, second))
    generator = torch.Generator().manual_seed(seed)
    shuffled = []
    for _ in range(permutations):
        order = torch.randperm(first.shape[1], generator=generator)
        shuffled.append(_entropy_bits(kernel * other[:, order][:, :, order]))
    return torch.stack(shuffled).mean(0) - _entropy_bits(kernel * other)


def lidar(views: Tensor, *, ridge: float = 1e-4) -> Tensor:
    """Effective rank of what tells texts apart, relative to how their views scatter (LiDAR).

    With Σ_b the scatter of the texts' means and Σ_w that of views about their text's mean, the exponential of the
    entropy of the eigenvalues of (Σ_w + ridge · mean variance · I)^-½ Σ_b (…)^-½, as shares. It counts directions; how
    far texts lie apart along them does not matter as long as it is the same for all.

    Args:
        views: Shape `(layers, views, texts, features)`.
        ridge: Added to Σ_w, relative to the mean variance of a feature within texts.

    Returns:
        float64, in directions, shape `(layers,)`; at most texts − 1. NaN where all texts have one mean.

    Source:
        Thilak et al. 2023, arXiv:2312.04000; for layers, Skean et al. 2025, arXiv:2502.02013.
    """
    values = _in_their_span(views.double())
    means = values.mean(1)  # (layers, texts, features)
    between = means - means.mean(1, keepdim=True)
    within = (values - means[:, None]).flatten(1, 2)  # (layers, views · texts, features)
    found = []
    for of_texts, of_views in zip(between, within, strict=True):
        scatter = of_views.T @ of_views / len(of_views)
        level = ridge * scatter.trace() / views.shape[-1] + 1e-12
        scatter = scatter + level * torch.eye(len(scatter), dtype=scatter.dtype)
        # Σ_w = C Cᵀ: the nonzero eigenvalues of C⁻¹ Σ_b C⁻ᵀ are those of the texts' Gram matrix in whitened coordinates
        whitened = torch.linalg.solve_triangular(torch.linalg.cholesky(scatter), of_texts.T, upper=False)
        eigenvalues = torch.linalg.eigvalsh(whitened.T @ whitened).clamp_min(0)
        total = eigenvalues.sum()
        found.append(entropy(eigenvalues / total).exp() if total > 0 else total.new_tensor(torch.nan))
    return torch.stack(found)


def _in_their_span(views: Tensor) -> Tensor:
    """Coordinates of centred views in their span, where they have fewer rows than features; no scatter changes."""
    centred = views - views.mean((1, 2), keepdim=True)
    rows = centred.flatten(1, 2)
    if rows.shape[1] >= rows.shape[2]:
        return centred
    triangular = torch.linalg.qr(rows.mT, mode="r").R  # rowsᵀ = Q R: coordinates of the rows in the columns of Q
    return triangular.mT.unflatten(1, views.shape[1:3])


def _unit(values: Tensor) -> Tensor:
    return functional.normalize(values.double(), dim=-1)


def _entropy_bits(gram: Tensor) -> Tensor:
    eigenvalues = torch.linalg.eigvalsh(gram).clamp_min(0)
    return entropy(eigenvalues / eigenvalues.sum(-1, keepdim=True)) / math.log(2)
