from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from gaussian_rows import draw_float32
from scipy.spatial.distance import pdist
from scipy.stats import pearsonr, spearmanr

from probes.analysis.similarity.rsa import Correlation, Distance, rsa


def one_hot(groups: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.one_hot(groups).double()


def scipy_distances(points: torch.Tensor, distance: Distance) -> np.ndarray:
    """Rounded, as scipy's cosine distance of two equal rows is 0 only to the last digit."""
    rows = points.double().numpy()
    return {"euclidean": pdist(rows), "cosine": pdist(rows, "cosine"), "correlation": pdist(rows, "correlation")}[
        distance
    ].round(12)


@pytest.mark.parametrize("distance", ["euclidean", "correlation", "cosine"])
@pytest.mark.parametrize("correlation", ["spearman", "pearson"])
def test_it_is_scipys_correlation_of_scipys_distances(distance: Distance, correlation: Correlation):
    x, y = draw_float32(2, 40, 7) + 1, draw_float32(2, 40, 5, seed=1)
    y[1] += x[1, :, :5]
    reference: Callable = {"spearman": spearmanr, "pearson": pearsonr}[correlation]
    expected = [
        reference(scipy_distances(a, distance), scipy_distances(b, distance)).statistic
        for a, b in zip(x, y, strict=True)
    ]
    assert rsa(x, y, distance=distance, correlation=correlation).tolist() == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize("distance", ["euclidean", "cosine"])
def test_distances_that_are_equal_share_their_mean_rank(distance: Distance):
    groups = torch.arange(60) % 4
    x, y = draw_float32(60, 6).double(), one_hot(groups)
    x[:, :4] += y
    x[30:40] = x[20:30]
    expected = spearmanr(scipy_distances(x, distance), pdist(y, "hamming"))[0]
    assert rsa(x[None], y[None], distance=distance).item() == pytest.approx(expected, abs=1e-10)


def test_a_related_layer_is_found_and_unrelated_ones_average_zero():
    x, y = draw_float32(20, 60, 10), draw_float32(20, 60, 10, seed=1)
    y[7] += x[7]
    values = rsa(x, y)
    assert values.argmax() == 7
    assert values[7] > 0.3
    assert values[torch.arange(20) != 7].mean().abs() < 0.02


def test_a_stretched_distance_changes_pearson_and_not_spearman():
    x = draw_float32(1, 30, 1).double().exp()
    y = torch.stack([x[0, :, 0], torch.zeros(30)], 1)[None]
    assert rsa(x, y).item() == pytest.approx(1)
    simplex = torch.diag(torch.arange(1.0, 9.0))[None]
    assert rsa(simplex, simplex.square()).item() == pytest.approx(1, abs=0.1)
    assert rsa(simplex, simplex**4, correlation="pearson").item() < rsa(simplex, simplex**4).item() - 0.05


def test_constant_layers_equal_distances_and_rows_without_direction_are_nan():
    x, y = draw_float32(4, 9, 9), draw_float32(4, 9, 9, seed=1)
    x[0] = 3.7
    x[1] = torch.eye(9)
    x[2, 4] = 0
    assert rsa(x, y).isnan().tolist() == [True, True, False, False]
    assert rsa(y, x, correlation="pearson").isnan().tolist() == [True, True, False, False]
    assert rsa(x, y, distance="cosine").isnan().tolist() == [True, True, True, False]
    x[2, 4] = 0.1
    assert rsa(x, y, distance="correlation", correlation="pearson")[2:].isnan().tolist() == [True, False]


def test_what_cannot_be_measured_is_refused():
    x = draw_float32(2, 9, 3)
    with pytest.raises(ValueError, match=r"RSA knows no 'manhattan' here\. There are \('euclidean', 'correlation'"):
        rsa(x, x, distance="manhattan")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=r"RSA knows no 'kendall' here\. There are \('spearman', 'pearson'\)"):
        rsa(x, x, correlation="kendall")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=r"same layers and rows; got \(2, 9, 3\) and \(2, 8, 3\)"):
        rsa(x, x[:, 1:])
