"""Rows of a layer in the plane, for the eye."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from probes.analysis.hsic import centred, is_constant

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
    left, scale, _ = torch.linalg.svd(centred(rows[None])[0].double(), full_matrices=False)
    reduced = (left * scale)[:, :_COMPONENTS].numpy(force=True)
    method = TSNE(perplexity=min(perplexity, (len(rows) - 1) / 3), init="pca", random_state=seed)
    return method.fit_transform(reduced).astype(np.float64)
