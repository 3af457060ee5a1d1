import pytest
import torch

from probes.analysis import cka_pairs, hsic_pairs
from probes.analysis.minibatch_cka import HsicSums, cka_of_sums, minibatch_cka


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def related(rows: int, layers: int = 1, features: int = 10) -> tuple[torch.Tensor, torch.Tensor]:
    x = draw(layers, rows, features) * torch.logspace(0.5, -0.5, features)
    return x, 0.5 * x.flip(0) + draw(layers, rows, features, seed=1)


def batches(x: torch.Tensor, y: torch.Tensor, rows: int):
    return zip(x.split(rows, dim=1), y.split(rows, dim=1), strict=True)


def test_it_is_the_ratio_of_hsics_summed_over_batches():
    x, y = related(60, layers=2)
    sums = {
        name: sum(hsic_pairs(a, b)[i, j] for a, b in batches(*sides, 12))
        for name, sides, (i, j) in (("xy", (x, y), (0, 1)), ("xx", (x, x), (0, 0)), ("yy", (y, y), (1, 1)))
    }
    expected = sums["xy"] / (sums["xx"] * sums["yy"]).sqrt()
    torch.testing.assert_close(minibatch_cka(batches(x, y, 12))[0, 1], expected, rtol=1e-12, atol=0)


def test_one_batch_of_all_rows_is_debiased_cka():
    x, y = related(60, layers=3)
    torch.testing.assert_close(minibatch_cka([(x, y)]), cka_pairs(x, y), rtol=1e-12, atol=1e-12)


def test_the_ratio_of_sums_finds_the_true_value_where_the_mean_of_ratios_does_not():
    x, y = related(8_000)
    truth = cka_pairs(x, y).item()
    each = torch.stack([cka_pairs(a, b)[0, 0] for a, b in batches(x, y, 5)])
    assert minibatch_cka(batches(x, y, 5)).item() == pytest.approx(truth, abs=0.01)
    assert abs(each.nanmean().item() - truth) > 0.05


def test_unrelated_layers_are_near_0_however_small_the_batches():
    x, y = draw(2, 6000, 20), draw(2, 6000, 20, seed=1)
    assert minibatch_cka(batches(x, y, 8)).abs().max() < 0.02


def test_a_layer_constant_in_every_batch_is_nan_and_one_constant_in_some_is_not():
    x, y = related(40, layers=2)
    x[0] = 0.1
    assert minibatch_cka(batches(x.float(), y.float(), 10)).isnan().tolist() == [[True, True], [False, False]]
    x[0, 20:] = 0.7
    assert minibatch_cka(batches(x.float(), y.float(), 10))[0].isnan().all()
    x[0, 5:15] = draw(10, 10, seed=3)
    assert minibatch_cka(batches(x.float(), y.float(), 10)).isfinite().all()


def test_no_spread_is_nan_even_where_rounding_left_some_covariance():
    values = cka_of_sums(HsicSums(torch.full((2, 2), 1e-20), torch.tensor([0.0, 4.0]), torch.tensor([0.0, 1.0])))
    assert values.isnan().tolist() == [[True, True], [True, False]]


def test_batches_that_cannot_be_used_are_refused():
    x, y = related(42)
    with pytest.raises(ValueError, match=r"Every minibatch wants at least 4 rows; got one of 2.*`drop_last=True`"):
        minibatch_cka(batches(x, y, 10))
    with pytest.raises(ValueError, match="at least one batch"):
        minibatch_cka([])
    with pytest.raises(ValueError, match=r"equal rows; got \(1, 42, 10\), \(1, 41, 10\)"):
        minibatch_cka([(x, y[:, 1:])])
    x[0, 3, 3] = torch.nan
    with pytest.raises(ValueError, match="holds NaN or infinity"):
        minibatch_cka([(x, y)])
