"""The tokens of one prompt as a path through a layer's space: how diverse they are, and how sharply it turns."""

from __future__ import annotations

import torch
from torch import Tensor


def prompt_entropy(tokens: Tensor) -> Tensor:
    """Matrix-based entropy of a prompt's tokens, as a share of the largest that so many tokens can have.

    With eigenvalues p of the Gram matrix of the tokens, not centred, divided by its trace, −Σ p log p / log min(T, d).
    It is 0 where all tokens are equal up to a factor, and 1 where they are orthogonal and of one length.

    Args:
        tokens: Shape `(layers, tokens, features)`.

    Returns:
        float64, shape `(layers,)`; NaN for a prompt of one token.

    Source:
        Giraldo, Rao and Príncipe 2015; Skean et al. 2025, arXiv:2502.02013, as prompt entropy, in the limit of order 1.

    >>> prompt_entropy(torch.eye(4)[None]).round(decimals=6).item(), prompt_entropy(torch.ones(1, 4, 3)).item() < 1e-6
    (1.0, True)
    """
    _, count, features = tokens.shape
    if count < 2:
        return tokens.new_full((len(tokens),), torch.nan, dtype=torch.float64)
    shares = _shares(tokens.double() @ tokens.double().mT)
    return entropy(shares) / torch.tensor(float(min(count, features))).log()


def token_curvature(tokens: Tensor) -> Tensor:
    """Mean angle between successive steps of the path from token to token, in degrees.

    Args:
        tokens: Shape `(layers, tokens, features)`.

    Returns:
        float64, shape `(layers,)`; NaN for fewer than 3 tokens. A step of length 0 turns by 90 degrees.

    Source:
        Hosseini and Fedorenko 2023; Skean et al. 2025, arXiv:2502.02013.

    >>> corner = torch.tensor([[[0.0, 0.0], [1.0, 0.0], [1.0, 1.0]]])
    >>> round(token_curvature(corner).item(), 3)
    90.0
    """
    if tokens.shape[1] < 3:
        return tokens.new_full((len(tokens),), torch.nan, dtype=torch.float64)
    steps = tokens.double().diff(dim=1)
    cosines = torch.cosine_similarity(steps[:, 1:], steps[:, :-1], dim=-1)
    return torch.rad2deg(cosines.clamp(-1, 1).arccos()).mean(1)


def entropy(shares: Tensor) -> Tensor:
    """−Σ p log p over the last axis, in nats; shares of 0 count 0."""
    return torch.special.entr(shares).sum(-1)


def _shares(gram: Tensor) -> Tensor:
    """Eigenvalues of positive semi-definite matrices as shares of their sum."""
    eigenvalues = torch.linalg.eigvalsh(gram).clamp_min(0)
    return eigenvalues / eigenvalues.sum(-1, keepdim=True).clamp_min(torch.finfo(eigenvalues.dtype).tiny)
