import pytest
import torch
from scipy.spatial.distance import cosine

from probes.analysis.cosine import matched_cosine


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_it_is_the_mean_over_rows_of_scipys_cosine():
    x, y = draw(3, 20, 6), draw(3, 20, 6, seed=1)
    expected = [
        sum(1 - cosine(a, b) for a, b in zip(one, other, strict=True)) / 20
        for one, other in zip(x.double().numpy(), y.double().numpy(), strict=True)
    ]
    values = matched_cosine(x, y)
    assert values.dtype == torch.float64
    assert values.tolist() == pytest.approx(expected, abs=1e-12)


def test_every_row_weighs_the_same_whatever_its_length():
    x = torch.tensor([[[1.0, 0], [0, 1], [1, 0], [0, 1]]])
    y = torch.tensor([[[100.0, 0], [0, 1], [0, 1], [-1, 0]]])
    assert matched_cosine(x, y).tolist() == [0.5]


def test_unrelated_rows_average_zero_and_a_shared_vector_hides_everything_else():
    x, y = draw(10, 200, 16), draw(10, 200, 16, seed=1)
    assert matched_cosine(x, y).mean().abs() < 0.01
    assert matched_cosine(x + 30, y + 30).min() > 0.99


def test_rows_of_zeros_are_left_out_on_either_side():
    x, y = draw(1, 10, 4), draw(1, 10, 4, seed=1)
    x[0, 3] = 0
    y[0, 5] = 0
    kept = [row for row in range(10) if row not in {3, 5}]
    torch.testing.assert_close(matched_cosine(x, y), matched_cosine(x[:, kept], y[:, kept]))


def test_it_is_nan_where_no_row_is_left_and_where_a_layer_is_constant():
    x, y = draw(3, 10, 4), draw(3, 10, 4, seed=1)
    x[0, ::2] = 0
    y[0, 1::2] = 0
    x[1] = 3.7
    assert matched_cosine(x, y).isnan().tolist() == [True, True, False]


def test_two_feature_spaces_and_mismatched_rows_are_refused():
    x = draw(2, 9, 3)
    with pytest.raises(
        ValueError, match=r"one feature space; `x` has 3 features and `y` 2\. For layers of.*linear_cka"
    ):
        matched_cosine(x, x[:, :, :2])
    with pytest.raises(ValueError, match=r"same layers and rows; got \(2, 9, 3\) and \(2, 8, 3\)"):
        matched_cosine(x, x[:, 1:])
