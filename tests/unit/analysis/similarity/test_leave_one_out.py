from __future__ import annotations

import pytest
import torch
from gaussian_rows import draw

from probes.analysis import cka_leave_one_out, cka_pairs, hsic_pairs, label_features, linear_cka
from probes.analysis.similarity import leave_one_out as module


def related(layers: int, rows: int, x_features: int, y_features: int) -> tuple[torch.Tensor, torch.Tensor]:
    x = draw(layers, rows, x_features) * torch.logspace(0, -1, x_features) + 5
    return x, x @ draw(layers, x_features, y_features, seed=1) + draw(layers, rows, y_features, seed=2)


def recomputed(x: torch.Tensor, y: torch.Tensor, *, debiased: bool) -> torch.Tensor:
    """Linear CKA computed from the start without each row, shape `(layers, rows)`."""
    rows = torch.arange(x.shape[1])
    y = y.expand(len(x), -1, -1)
    return torch.stack([linear_cka(x[:, rows != i], y[:, rows != i], debiased=debiased) for i in rows], dim=1)


SHAPES = [(20, 40, 30), (30, 3, 7), (9, 6, 2)]


@pytest.mark.parametrize("debiased", [True, False])
@pytest.mark.parametrize("shape", SHAPES, ids=["wide", "tall", "few"])
def test_every_value_is_the_cka_recomputed_without_that_row(shape: tuple[int, int, int], debiased: bool):
    x, y = related(2, *shape)
    alignment = cka_leave_one_out(x, y, debiased=debiased)
    torch.testing.assert_close(alignment.values, cka_pairs(x, y, debiased=debiased).diagonal(), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(alignment.without_row, recomputed(x, y, debiased=debiased), rtol=1e-9, atol=1e-11)
    assert alignment.without_row.std(1).min() > 1e-4  # rows do differ in their influence


@pytest.mark.parametrize("debiased", [True, False])
def test_float32_rows_far_from_zero_are_within_1e_5_of_float64(debiased: bool):
    x, y = related(2, 300, 24, 16)
    x, y = (x + 50).float(), y.float()
    coarse, fine = (cka_leave_one_out(*pair, debiased=debiased) for pair in ((x, y), (x.double(), y.double())))
    assert coarse.without_row.dtype == torch.float64
    torch.testing.assert_close(coarse.without_row, fine.without_row, rtol=0, atol=1e-5)


@pytest.mark.parametrize("debiased", [True, False])
@pytest.mark.parametrize("shape", [(64, 32), (100, 300), (300, 20)], ids=["by pairs", "by rows", "by features"])
def test_equal_activations_have_a_cka_of_exactly_1_without_any_row(shape: tuple[int, int], debiased: bool):
    x = draw(2, *shape).float() * torch.logspace(0, -3, shape[1])
    y = x.clone()
    y[1, 0, 0] += 1e-2  # the other layer is not equal
    found = cka_leave_one_out(x, y, debiased=debiased)
    assert found.values[0] == 1
    assert (found.without_row[0] == 1).all()
    assert 0 < 1 - found.values[1] < 1e-2


def test_one_layer_of_labels_serves_all_layers():
    x, labels = draw(3, 25, 6), label_features(torch.arange(25) % 3)[None].double()
    alone = cka_leave_one_out(x, labels)
    torch.testing.assert_close(alone.without_row, cka_leave_one_out(x, labels.expand(3, -1, -1)).without_row)
    torch.testing.assert_close(alone.without_row, recomputed(x, labels, debiased=True), rtol=1e-9, atol=1e-11)


def test_the_norm_is_what_the_hsic_was_divided_by():
    x, y = related(2, 20, 5, 4)
    alignment = cka_leave_one_out(x, y)
    within = hsic_pairs(x, x).diagonal() * hsic_pairs(y, y).diagonal()
    torch.testing.assert_close(alignment.norm, within.sqrt(), rtol=1e-10, atol=0)


@pytest.mark.parametrize("rows_at_once", [512, 7])
def test_both_forms_of_the_row_sums_are_sums_over_elements_of_the_kernels(rows_at_once: int, monkeypatch):
    monkeypatch.setattr(module, "_BLOCK_ROWS", rows_at_once)
    monkeypatch.setattr(module, "_CACHED_BLOCK_ROWS", rows_at_once)
    x, y = (module.centre_rows(z) for z in related(2, 30, 5, 8))
    kernel, other = x @ x.mT, y @ y.mT
    by_rows = module._products_by_rows(x, y)
    for name, product in (("xx", kernel * kernel), ("xy", kernel * other), ("yy", other * other)):
        torch.testing.assert_close(getattr(by_rows, name), product.sum(2), rtol=1e-10, atol=1e-9)
    by_features = module._products_by_features(x, y)
    torch.testing.assert_close(by_features, by_rows.xy, rtol=1e-10, atol=1e-9)
    narrow = y[..., :2]
    for side, expected in ((x, by_rows.xx), (y, by_rows.yy), (narrow, module._products_by_rows(narrow, y).xx)):
        torch.testing.assert_close(module._square_products(side), expected, rtol=1e-10, atol=1e-9)


@pytest.mark.parametrize("y_features", [1, 60])
def test_row_sums_are_the_same_whichever_form_is_cheaper(y_features: int):
    x, y = (module.centre_rows(z) for z in related(2, 30, 60, y_features))
    chosen, by_rows = module.row_products(x, y), module._products_by_rows(x, y)
    for name in ("xx", "xy", "yy"):
        torch.testing.assert_close(getattr(chosen, name), getattr(by_rows, name), rtol=1e-10, atol=1e-9)


def test_a_constant_layer_is_nan_and_its_neighbour_is_not():
    x, y = draw(2, 12, 4), draw(2, 12, 3, seed=1)
    x[0] = 3.7
    alignment = cka_leave_one_out(x, y)
    assert alignment.values.isnan().tolist() == [True, False]
    assert alignment.without_row.isnan().all(1).tolist() == [True, False]
    assert alignment.norm.isnan().tolist() == [True, False]


@pytest.mark.parametrize("row", [0, 4, 11])
def test_there_is_no_value_where_hsic_is_zero_by_construction(row: int):
    x = draw(1, 12, 4)  # where all rows but one are equal the unbiased HSIC is 0 with anything, and the biased is not
    labels = torch.zeros(1, 12, 1, dtype=torch.float64)
    labels[0, row] = 1
    biased = cka_leave_one_out(x, labels, debiased=False)
    assert biased.values.isfinite().all()
    assert biased.without_row.isnan()[0].nonzero().flatten().tolist() == [row]
    assert cka_leave_one_out(x, labels).values.isnan().all()
    labels[0, (row + 1) % 12] = 1
    for pair in ((x, labels), (labels, x), (x.float(), labels.float())):
        unbiased = cka_leave_one_out(*pair)
        assert unbiased.values.isfinite().all()
        assert unbiased.without_row.isnan()[0].nonzero().flatten().tolist() == sorted({row, (row + 1) % 12})
    labels[0, (row + 3) % 12] = 1
    assert cka_leave_one_out(x, labels).without_row.isfinite().all()


def test_five_rows_are_enough_and_four_are_refused():
    x, y = related(1, 5, 3, 2)
    torch.testing.assert_close(
        cka_leave_one_out(x, y).without_row, recomputed(x, y, debiased=True), rtol=1e-8, atol=1e-10
    )
    with pytest.raises(ValueError, match="at least 5 rows; got 4"):
        cka_leave_one_out(x[:, :4], y[:, :4])


@pytest.mark.parametrize(
    ("x", "y"), [((2, 9, 3), (2, 8, 3)), ((2, 9, 3), (3, 9, 3)), ((9, 3), (9, 3))], ids=["rows", "layers", "axes"]
)
def test_layers_that_do_not_match_are_refused(x: tuple[int, ...], y: tuple[int, ...]):
    with pytest.raises(ValueError, match=r"equal rows and layers; got .* Join both on their row ids first"):
        cka_leave_one_out(draw(*x), draw(*y))
