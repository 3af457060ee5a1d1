from __future__ import annotations

import pytest
import torch
from gaussian_rows import draw_float32
from sklearn.metrics import pairwise_distances
from sklearn.neighbors import NearestNeighbors

from probes.analysis.similarity.neighbours import (
    NeighbourMetric,
    distance_matrix,
    nearest,
    neighbour_overlap,
    neighbour_overlap_by_chance,
)


def neighbours_by_scikit_learn(points: torch.Tensor, k: int, metric: NeighbourMetric) -> list[set[int]]:
    found = NearestNeighbors(n_neighbors=k, metric=metric).fit(points.double().numpy())
    return [set(row) for row in found.kneighbors(return_distance=False)]


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("k", [1, 10, 59])
def test_it_is_the_mean_share_of_scikit_learns_common_neighbours(metric: NeighbourMetric, k: int):
    x, y = draw_float32(2, 60, 8) + 0.5, draw_float32(2, 60, 5, seed=1)
    y[1] += x[1, :, :5]
    expected = []
    for a, b in zip(x, y, strict=True):
        of_x, of_y = neighbours_by_scikit_learn(a, k, metric), neighbours_by_scikit_learn(b, k, metric)
        expected.append(sum(len(one & other) for one, other in zip(of_x, of_y, strict=True)) / (60 * k))
    assert neighbour_overlap(x, y, k=k, metric=metric).tolist() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_unrelated_layers_overlap_by_chance_and_equal_ones_fully(metric: NeighbourMetric):
    x, y = draw_float32(20, 101, 6), draw_float32(20, 101, 6, seed=1)
    values = neighbour_overlap(x, y, k=10, metric=metric)
    assert neighbour_overlap_by_chance(101, 10) == 0.1
    assert values.mean() == pytest.approx(neighbour_overlap_by_chance(101, 10), abs=0.005)
    assert neighbour_overlap(x, 2 * x, k=10, metric=metric).tolist() == [1.0] * 20


def test_cosine_ignores_the_lengths_of_rows_and_euclidean_does_not():
    x = draw_float32(1, 60, 8)
    longer = x * (1 + 5 * torch.rand(60, 1, generator=torch.Generator().manual_seed(1)))
    assert neighbour_overlap(x, longer).item() == 1
    assert neighbour_overlap(x, longer, metric="euclidean").item() < 0.9


def test_of_exact_duplicates_the_lower_row_index_is_the_nearer():
    points = torch.tensor([[0.0], [5.0], [5.0], [5.0], [1.0], [5.0]], dtype=torch.float64)
    assert nearest(points, 1).nonzero().tolist() == [[0, 4], [1, 2], [2, 1], [3, 1], [4, 0], [5, 1]]
    assert nearest(points, 2)[0].nonzero().flatten().tolist() == [1, 4]
    assert nearest(points, 3)[4].nonzero().flatten().tolist() == [0, 1, 2]


def test_every_row_has_k_neighbours_other_than_itself_even_among_duplicates():
    points = draw_float32(50, 300).double()[torch.arange(200) % 50]
    found = nearest(points, 7)
    assert found.sum(dim=1).tolist() == [7] * 200
    assert not found.diagonal().any()
    assert found[130, [30, 80, 180]].all()  # the duplicates of row 130


def test_distances_are_symmetric_and_exact_for_rows_that_nearly_coincide():
    points = draw_float32(40, 30).double() + 1e3
    points[7] = points[3]
    points[9] = points[3]
    points[9, 2] += 1e-9
    distances = distance_matrix(points)
    torch.testing.assert_close(distances, torch.tensor(pairwise_distances(points[:, :] - 1e3)), rtol=1e-6, atol=1e-6)
    assert torch.equal(distances, distances.T)
    assert distances[3, 7] == 0
    assert distances[3, 9] == (points[9, 2] - points[3, 2]).abs() > 0


def test_constant_layers_and_those_without_directions_are_nan():
    x, y = draw_float32(4, 30, 3), draw_float32(4, 30, 3, seed=1)
    x[0] = 3.7
    x[1] = 2.0 ** torch.arange(30)[:, None]
    x[2, 5] = 0
    assert neighbour_overlap(x, y).isnan().tolist() == [True, True, True, False]
    assert neighbour_overlap(y, x, metric="euclidean").isnan().tolist() == [True, False, False, False]


def test_what_cannot_be_measured_is_refused():
    x = draw_float32(2, 9, 3)
    with pytest.raises(ValueError, match=r"A row of 9 has 1 to 8 neighbours; got k=9"):
        neighbour_overlap(x, x, k=9)
    with pytest.raises(ValueError, match=r"A row of 9 has 1 to 8 neighbours; got k=0"):
        neighbour_overlap_by_chance(9, 0)
    with pytest.raises(ValueError, match=r"No metric is called 'manhattan'\. There are \('cosine', 'euclidean'\)"):
        neighbour_overlap(x, x, k=2, metric="manhattan")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=r"same layers and rows; got \(2, 9, 3\) and \(2, 8, 3\)"):
        neighbour_overlap(x, x[:, 1:], k=2)
    assert neighbour_overlap(x, x, k=8).tolist() == [1, 1]
