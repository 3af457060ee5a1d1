"""How strongly a later attention head reads what an earlier one writes, from their weights alone.

With u_i the left singular vectors of the earlier head's value–output matrix, s_i its singular values, and A what the
later head reads with (its query–key matrix from the side of queries or keys, or its value–output matrix), the
composition scores are

    of the whole matrices   ‖A Σ u_i s_i v_iᵀ‖ / (‖A‖ ‖s‖)
    of component i          ‖A u_i‖ / ‖A‖

in Frobenius norms (Elhage et al. 2021; Merullo et al. 2024). Nothing of size features × features is computed: all
matrices are kept as factors of the rank of a head.

Their null is that the directions which the earlier head writes along are rotated at random against those which the
later head reads. The law of a score over all rotations follows from the two spectra; p comes from its saddlepoint
approximation instead of draws, of which no affordable number would do: with 10⁵ pairs of heads, p has to be below
5 · 10⁻⁷ to be seen at all.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from scipy.special import log_ndtr
from torch import Tensor

KINDS = ("query", "key", "value")
"""What the later head uses what it reads for."""


@dataclass(frozen=True, eq=False)
class WrittenComponents:
    """What heads write, by singular value decomposition of their value–output matrices.

    Attributes:
        directions: u_i, orthonormal for each head, shape `(heads, features, rank)`.
        sizes: s_i, descending, shape `(heads, rank)`.
    """

    directions: Tensor
    sizes: Tensor

    @classmethod
    def of(cls, value: Tensor, output: Tensor) -> WrittenComponents:
        """Decompose output · value of each head.

        Args:
            value: Shape `(heads, rank, features)`.
            output: Shape `(heads, features, rank)`.
        """
        basis, mixing = torch.linalg.qr(output)
        inner = mixing @ torch.linalg.qr(value.transpose(1, 2))[1].transpose(1, 2)  # (heads, rank, rank)
        left, sizes, _ = torch.linalg.svd(inner)
        return cls(basis @ left, sizes)


def reading_matrices(query: Tensor, key: Tensor, value: Tensor, output: Tensor) -> dict[str, Tensor]:
    """For each of `KINDS` a matrix A of each head, with the norms of all products A x of the whole d × d matrix.

    Args:
        query: Shape `(heads, rank, features)`, as are `key` and `value`.
        key: Keys.
        value: Values.
        output: Shape `(heads, features, rank)`.

    Returns:
        Shape `(heads, rank, features)` each.
    """
    return {
        "query": torch.linalg.qr(key.transpose(1, 2))[1] @ query,  # W_Kᵀ W_Q = Q R W_Q, and Q keeps norms
        "key": torch.linalg.qr(query.transpose(1, 2))[1] @ key,
        "value": torch.linalg.qr(output)[1] @ value,
    }


@dataclass(frozen=True, eq=False)
class CompositionScores:
    """Scores of some later heads with some earlier ones.

    Attributes:
        whole: Of the whole matrices, float64, shape `(readers, writers)`.
        components: Of each component of what is written, float64, shape `(readers, writers, rank)`.
        whole_log_p: Natural logarithm of the p of each under rotations, not corrected.
        components_log_p: The same.
    """

    whole: np.ndarray
    components: np.ndarray
    whole_log_p: np.ndarray
    components_log_p: np.ndarray


def composition_scores(reading: Tensor, written: WrittenComponents) -> CompositionScores:
    """Scores of all pairs of later and earlier heads with their p.

    Args:
        reading: A of the later heads, shape `(readers, rank, features)`.
        written: Of the earlier heads.
    """
    readers, rank, features = reading.shape
    writers, _, components = written.directions.shape
    flat = written.directions.permute(1, 0, 2).reshape(features, -1)
    read = (reading.reshape(-1, features) @ flat).square().view(readers, rank, writers, components)
    size = reading.square().sum((1, 2)).clamp(min=1e-30)
    shares = (read.sum(1) / size[:, None, None]).double().cpu().numpy()  # ‖A u_i‖² / ‖A‖²
    weights = written.sizes.double().square().cpu().numpy()
    weights = weights / np.maximum(weights.sum(1, keepdims=True), 1e-300)
    whole = (shares * weights).sum(-1)
    spectra = torch.linalg.eigvalsh(reading.double() @ reading.double().transpose(1, 2)).cpu().numpy()
    spectra = np.maximum(spectra, 0.0) / size.double().cpu().numpy()[:, None]
    return CompositionScores(
        whole=np.sqrt(whole),
        components=np.sqrt(shares),
        whole_log_p=whole_log_p(whole, spectra, weights, features),
        components_log_p=component_log_p(shares, spectra, features),
    )


def component_log_p(shares: np.ndarray, spectra: np.ndarray, features: int, *, nodes: int = 96) -> np.ndarray:
    """Log P(‖A u‖² ≥ share · ‖A‖²) for a direction u that is uniform on the sphere.

    With u = g / ‖g‖ of a standard normal g, the event is Σ (λ_k − share) g_k² ≥ 0: a quadratic form in normal
    variables. It is computed at some shares for each reader, and interpolated between them.

    Args:
        shares: Shape `(readers, …)`.
        spectra: λ, eigenvalues of A Aᵀ / ‖A‖² of each reader, shape `(readers, rank)`; the others are 0.
        features: Dimensions of the sphere.
        nodes: At how many shares it is computed.
    """
    readers, rank = spectra.shape
    largest, mean = spectra.max(1), 1 / features
    # Half of the shares are dense about the mean, half towards the largest possible one, where p falls to 0.
    low, high = np.log(0.05 * mean), np.log(np.maximum(0.9 * largest, 1.01 * mean))
    upwards = np.exp(low + np.linspace(0, 1, nodes // 2) * (high - low)[:, None])
    gaps = (largest - upwards[:, -1])[:, None] * np.geomspace(0.7, 1e-8, nodes - nodes // 2)
    grid = np.concatenate([upwards, largest[:, None] - gaps], axis=1)
    coefficients, counts = spectra[:, None] - grid[..., None], np.ones(rank)
    if features > rank:
        coefficients = np.concatenate([coefficients, -grid[..., None]], axis=-1)
        counts = np.append(counts, features - rank)
    scores = tail_scores(coefficients, counts, np.zeros(grid.shape))
    found = np.empty(shares.shape)
    for reader in range(readers):
        known = np.isfinite(scores[reader])
        if largest[reader] <= 1.01 * mean or not known.any():
            found[reader] = 0.0  # a reader that reads all directions alike
            continue
        at = np.log(np.clip(shares[reader], grid[reader, 0], grid[reader, -1]))
        found[reader] = log_ndtr(-np.interp(at, np.log(grid[reader, known]), scores[reader, known]))
    return found


def whole_log_p(shares: np.ndarray, spectra: np.ndarray, weights: np.ndarray, features: int) -> np.ndarray:
    """Log P(Σ_i w_i ‖A u_i‖² ≥ share · ‖A‖²) for orthonormal directions u_i that are rotated at random.

    With O the rotation, the sum less its mean is Σ (λ_k − λ̄)(w_i − w̄) O_ki², means being over all directions. The O_ki
    are taken for independent normal variables whose scale gives the sum its exact variance over rotations.

    Args:
        shares: Shape `(readers, writers)`.
        spectra: λ, as in `component_log_p`.
        weights: w, shares of s² of each writer, shape `(writers, rank)`; the others are 0.
        features: Dimensions of the stream.
    """
    read, read_counts = _few_values(spectra, features)
    wrote, wrote_counts = _few_values(weights, features)
    counts = np.outer(read_counts, wrote_counts).ravel()
    scale = np.sqrt((features - 1) * (features + 2))
    found = np.empty(shares.shape)
    for reader, own in enumerate(read - 1 / features):
        coefficients = own[None, :, None] * (wrote - 1 / features)[:, None, :] / scale
        coefficients = coefficients.reshape(len(wrote), -1)  # (writers, values)
        excess = shares[reader] - 1 / features + (coefficients * counts).sum(1)
        found[reader] = log_ndtr(-tail_scores(coefficients, counts, excess))
    return np.where(np.isfinite(found), found, np.log(0.5))


def tail_scores(coefficients: np.ndarray, counts: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Z with P(Σ a_k χ²_k ≥ x) ≈ P(normal ≥ z), for independent χ²_k with n_k degrees of freedom.

    Args:
        coefficients: a, of both signs, shape `(…, k)`.
        counts: n, shape `(k,)`.
        at: x, shape `(…)`.

    Returns:
        Shape `(…)`; NaN next to the mean, where the approximation is 0 / 0.

    Source:
        Kuonen 1999 for quadratic forms, in the form of Barndorff-Nielsen 1990.
    """
    high = 1 / (2 * np.maximum(coefficients.max(-1), 1e-300))
    low = 1 / (2 * np.minimum(coefficients.min(-1), -1e-300))
    for _ in range(64):  # the derivative of the cumulant function rises from −∞ to ∞ between both poles
        middle = (low + high) / 2
        slope = (counts * coefficients / (1 - 2 * coefficients * middle[..., None])).sum(-1)
        low, high = np.where(slope < at, middle, low), np.where(slope < at, high, middle)
    saddle = (low + high) / 2
    shrunk = 1 - 2 * coefficients * saddle[..., None]
    cumulant = -0.5 * (counts * np.log(shrunk)).sum(-1)
    curvature = 2 * (counts * np.square(coefficients / shrunk)).sum(-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        distance = np.sign(saddle) * np.sqrt(np.maximum(2 * (saddle * at - cumulant), 0))
        score = distance + np.log(saddle * np.sqrt(curvature) / distance) / distance
    return np.where(np.abs(distance) > 0.05, score, np.nan)


def _few_values(
    spectra: np.ndarray, features: int, *, exact: int = 8, groups: int = 4
) -> tuple[np.ndarray, np.ndarray]:
    """Spectra by their largest values and the means of groups of the others, and how often each value occurs.

    Returns:
        Values `(rows, values)` and counts `(values,)`; the last value is the 0 of all further directions.
    """
    ordered = -np.sort(-spectra, axis=1)
    rank = ordered.shape[1]
    ends = np.unique(
        [*range(min(exact, rank) + 1), *np.linspace(min(exact, rank), rank, groups + 1).round().astype(int)]
    )
    parts = [ordered[:, start:end].mean(1) for start, end in pairwise(ends)]
    values = np.stack([*parts, np.zeros(len(ordered))], axis=1)
    return values, np.array([*np.diff(ends), features - rank], dtype=float)
