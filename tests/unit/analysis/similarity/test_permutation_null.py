from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from gaussian_rows import draw
from scipy import stats

from probes.analysis import cka_leave_one_out, cka_null, linear_cka
from probes.analysis.similarity import permutation_null as module
from probes.analysis.similarity.permutation_null import circular_shifts


def orders(rows: int, permutations: int, seed: int = 0) -> torch.Tensor:
    return torch.cat([part.permutations for part in circular_shifts(rows, permutations, seed=seed)])


def null_of(x: torch.Tensor, y: torch.Tensor, **options: int) -> torch.Tensor:
    return cka_null(x, y, norm=cka_leave_one_out(x, y).norm, **options)


class TestShifts:
    def test_every_shift_is_a_permutation_that_moves_every_row(self):
        permutations = orders(9, 8)
        assert permutations.sort(dim=1).values.tolist() == [list(range(9))] * 8
        assert (permutations != torch.arange(9)).all()
        assert len(permutations.unique(dim=0)) == 8

    def test_along_its_order_a_shift_is_a_rotation(self):
        (part,) = circular_shifts(7, 6)
        for shift, permutation in zip(part.shifts.tolist(), part.permutations, strict=True):
            expected = {int(part.order[i]): int(part.order[(i + shift) % 7]) for i in range(7)}
            assert dict(enumerate(permutation.tolist())) == expected

    def test_more_permutations_than_shifts_need_a_second_order(self):
        assert [len(part.shifts) for part in circular_shifts(10, 9)] == [9]
        parts = circular_shifts(10, 25)
        assert [len(part.shifts) for part in parts] == [9, 9, 7]
        assert all(len(part.shifts.unique()) == len(part.shifts) for part in parts)
        assert not torch.equal(parts[0].order, parts[1].order)
        assert len(orders(10, 25).unique(dim=0)) == 25

    def test_the_seed_determines_the_permutations(self):
        assert torch.equal(orders(12, 30), orders(12, 30))
        assert not torch.equal(orders(12, 30), orders(12, 30, seed=1))


class TestNull:
    @pytest.mark.parametrize("rows", [16, 17])
    @pytest.mark.parametrize("y_features", [2, 40], ids=["by_features", "by_rows"])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_it_is_the_cka_of_explicitly_permuted_rows(self, rows: int, y_features: int, dtype: torch.dtype):
        x, y = (10 + draw(2, rows, 6)).to(dtype), draw(2, rows, y_features, seed=1).to(dtype)
        y[..., 0] += x[..., 0]
        assert (y_features * 20 < 16 * rows) == (y_features == 2)  # which form is used
        expected = torch.stack([linear_cka(x, y[:, order]) for order in orders(rows, 20, seed=3)])
        tolerance = 1e-10 if dtype == torch.float64 else 1e-5
        null = null_of(x, y, permutations=20, seed=3)
        torch.testing.assert_close(null, expected, rtol=0, atol=tolerance)

    @pytest.mark.parametrize("rows", [16, 17])
    def test_large_inputs_are_taken_in_pieces(self, rows: int, monkeypatch):
        x, narrow, wide = draw(1, rows, 6), draw(1, rows, 2, seed=1), draw(1, rows, 40, seed=2)
        whole = [null_of(x, y, permutations=20) for y in (narrow, wide)]
        monkeypatch.setattr(module, "_ELEMENTS_AT_ONCE", 200)
        monkeypatch.setattr(module, "_DIAGONALS_AT_ONCE", 3)
        pieces = [null_of(x, y, permutations=20) for y in (narrow, wide)]
        torch.testing.assert_close(pieces, whole, rtol=0, atol=1e-10)

    def test_columns_that_depend_linearly_on_others_are_dropped_and_change_nothing(self):
        x, labels = draw(2, 16, 6), torch.nn.functional.one_hot(torch.arange(16) % 3).double()[None]
        centred = labels - labels.mean(1, keepdim=True)
        assert module._fewest_columns(centred[0]).shape == (16, 2)
        mapped = labels @ torch.linalg.qr(draw(3, 3)).Q
        torch.testing.assert_close(null_of(x, labels, permutations=10), null_of(x, mapped, permutations=10))
        assert module._fewest_columns(torch.zeros(16, 3)).shape == (16, 3)

    @pytest.mark.parametrize("y_features", [2, 40])
    def test_one_layer_of_labels_serves_all_layers(self, y_features: int):
        x, y = draw(3, 16, 6), draw(1, 16, y_features, seed=1)
        norm = cka_leave_one_out(x, y).norm
        together = cka_null(x, y, norm=norm, permutations=20)
        torch.testing.assert_close(together, cka_null(x, y.expand(3, -1, -1), norm=norm, permutations=20))

    def test_shifts_spread_as_random_permutations_do_about_zero(self):
        x, y = draw(1, 24, 5), draw(1, 24, 3, seed=1)
        y[..., 0] += 2 * x[..., 0]  # related rows: permuted, they are not
        shifted = null_of(x, y, permutations=23 * 40)[:, 0].numpy()  # all shifts of 40 orders
        generator = torch.Generator().manual_seed(2)
        shuffles = [torch.randperm(24, generator=generator) for _ in range(920)]
        shuffled = np.array([linear_cka(x, y[:, order]).item() for order in shuffles])
        assert linear_cka(x, y) > 5 * shuffled.std()
        # over all permutations an unbiased HSIC averages 0 exactly
        for values in (shifted, shuffled):
            assert abs(values.mean()) < 4 * values.std() / math.sqrt(920)
        assert shifted.std() == pytest.approx(shuffled.std(), rel=0.12)
        p = stats.ks_2samp(shifted, shuffled).pvalue  # pyright: ignore[reportAttributeAccessIssue]
        assert p > 0.001

    def test_the_null_of_a_constant_layer_is_nan(self):
        x, y = draw(2, 12, 4), draw(2, 12, 3, seed=1)
        x[1] = 3.7
        assert null_of(x, y, permutations=5).isnan().any(0).tolist() == [False, True]
