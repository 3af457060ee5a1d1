import numpy as np
import torch

from probes.analysis import silhouette, tsne_points

GROUPS = torch.arange(60) % 3


def rows(distance: float, *, features: int = 80) -> torch.Tensor:
    """Three clouds of 20 rows, so far apart."""
    generator = torch.Generator().manual_seed(0)
    centres = distance * torch.nn.functional.one_hot(GROUPS, features).float()
    return centres + torch.randn(60, features, generator=generator)


def apartness(points: np.ndarray) -> float:
    return silhouette(torch.from_numpy(points)[None], GROUPS).item()


def test_clouds_far_apart_stay_apart_and_one_cloud_is_not_parted():
    points = tsne_points(rows(30.0), perplexity=10)
    assert (points.shape, points.dtype) == ((60, 2), np.float64)
    assert apartness(points) > 0.7
    assert apartness(tsne_points(rows(0.0), perplexity=10)) < 0.1


def test_the_same_seed_gives_the_same_points():
    x = rows(5.0)
    np.testing.assert_array_equal(tsne_points(x, perplexity=10), tsne_points(x, perplexity=10))


def test_shifted_and_scaled_clouds_stay_apart():
    assert apartness(tsne_points(4 * rows(30.0).double() + 100, perplexity=10)) > 0.7


def test_equal_rows_have_no_place():
    points = tsne_points(torch.full((12, 5), 3.7))
    assert points.shape == (12, 2)
    assert np.isnan(points).all()


def test_few_rows_take_fewer_neighbours_than_asked_for():
    for number in (4, 9):
        assert np.isfinite(tsne_points(rows(3.0)[:number], perplexity=30)).all()
