import itertools

import pytest
import torch
from gaussian_rows import draw

from probes.analysis.moments import Moments, cross_moments, exact_mean, merge_moments, row_count, scatter, unpack_layers


def sides(rows: int = 30) -> tuple[torch.Tensor, torch.Tensor]:
    return draw(2, rows, 4) + 3, draw(2, rows, 3, seed=1) - 2


def test_packed_sums_hold_what_the_layout_says():
    x, y = sides()
    u, v = x - x.mean(1, keepdim=True), y - y.mean(1, keepdim=True)
    x_norms, y_norms = u.square().sum(2), v.square().sum(2)
    assert cross_moments(x.float(), y.float()).dtype == torch.float64
    packed = cross_moments(x, y)
    torch.testing.assert_close(packed[:, 0, 0], torch.tensor([30.0, 30.0]).double())
    torch.testing.assert_close(packed[:, 0, 1:-1], y.mean(1))
    torch.testing.assert_close(packed[:, 1:-1, 0], x.mean(1))
    torch.testing.assert_close(packed[:, 0, -1], y_norms.sum(1))
    torch.testing.assert_close(packed[:, -1, 0], x_norms.sum(1))
    torch.testing.assert_close(packed[:, 1:-1, 1:-1], torch.einsum("lri,lrj->lij", u, v))
    torch.testing.assert_close(packed[:, 1:-1, -1], torch.einsum("lri,lr->li", u, y_norms))
    torch.testing.assert_close(packed[:, -1, 1:-1], torch.einsum("lr,lrj->lj", x_norms, v))
    torch.testing.assert_close(packed[:, -1, -1], (x_norms * y_norms).sum(1))


@pytest.mark.parametrize("cuts", [(1,), (7, 9), (1, 2, 3, 29), (10, 10, 20)])
def test_any_split_merges_to_the_sums_of_all_rows(cuts: tuple[int, ...]):
    x, y = sides()
    x, y = x + torch.arange(30.0)[None, :, None], y * 10
    edges = [0, *cuts, 30]
    parts = [cross_moments(x[:, a:b], y[:, a:b]) for a, b in itertools.pairwise(edges) if b > a]
    parts.insert(1, torch.zeros_like(parts[0]))
    for ordered in (parts, parts[::-1], torch.stack(parts)):
        torch.testing.assert_close(merge_moments(ordered), cross_moments(x, y), rtol=1e-11, atol=1e-9)


def test_merging_moments_is_associative():
    x, y = sides()
    one, two, three = (cross_moments(x[:, a:b], y[:, a:b]) for a, b in ((0, 4), (4, 5), (5, 30)))
    left = merge_moments([merge_moments([one, two]), three])
    right = merge_moments([one, merge_moments([two, three])])
    torch.testing.assert_close(left, right, rtol=1e-11, atol=1e-11)


def test_a_mean_a_million_times_the_spread_costs_no_digits():
    grid = (draw(2, 30, 4) * 1024).round() / 1024
    near = cross_moments(grid, grid)
    far = merge_moments([cross_moments(part + 1e6, part + 1e6) for part in grid.split(7, dim=1)])
    torch.testing.assert_close(scatter(far), scatter(near), rtol=1e-9, atol=1e-8)
    torch.testing.assert_close(far[:, -1, -1], near[:, -1, -1], rtol=1e-9, atol=0)


def test_equal_rows_have_a_spread_of_exactly_0_however_they_were_split():
    constant = torch.full((1, 29, 3), 0.1)
    assert torch.equal(exact_mean(constant), constant[:, :1])
    merged = merge_moments([cross_moments(part, part) for part in constant.split([1, 3, 25], dim=1)])
    assert row_count(merged) == 29
    assert not merged[:, 1:, 1:].any()
    assert cross_moments(constant + draw(1, 29, 3) * 1e-7, constant)[:, -1, 0] > 0


def test_merging_moments_of_no_rows_gives_no_rows():
    empty = torch.zeros(1, 5, 5)
    assert torch.equal(merge_moments([empty, empty]), empty)
    assert row_count(empty) == 0


def test_one_layer_of_labels_goes_with_all_layers():
    x, y = sides()
    shared = merge_moments([cross_moments(a, b[:1]) for a, b in zip(x.split(11, 1), y.split(11, 1), strict=True)])
    repeated = cross_moments(x, y[:1].expand(2, -1, -1))
    torch.testing.assert_close(shared, repeated, rtol=1e-11, atol=1e-11)


def test_unpacked_layers_are_the_moments_of_their_rows():
    x, y = sides()
    unpacked = unpack_layers(cross_moments(x, y), cross_moments(x, x), cross_moments(y, y))
    for layer, moments in enumerate(unpacked):
        direct = Moments.of(x[layer], y[layer])
        assert moments.rows == direct.rows == 30
        for name in ("xx", "yy", "xy"):
            torch.testing.assert_close(getattr(moments, name), getattr(direct, name), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(direct.xx / 29, torch.cov(x[layer].T), rtol=1e-12, atol=1e-12)
