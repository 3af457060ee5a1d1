from __future__ import annotations

import torch

from probes.training import Standardiser


def test_training_rows_get_mean_zero_and_deviation_one_at_every_layer():
    values = 5 + 3 * torch.randn(2, 50, 4, generator=torch.Generator().manual_seed(0))
    standardiser, constant = Standardiser.of(values)
    out = standardiser(values)
    assert torch.allclose(out.mean(1), torch.zeros(2, 4), atol=1e-5)
    assert torch.allclose(out.std(1, correction=0), torch.ones(2, 4), atol=1e-5)
    assert not constant.any()


def test_a_feature_without_variance_is_only_centred():
    values = torch.randn(1, 50, 3, generator=torch.Generator().manual_seed(0))
    values[..., 1] = 0.1
    standardiser, constant = Standardiser.of(values)
    assert float(standardiser.deviation[0, 1]) == 1
    assert float(standardiser(values)[..., 1].abs().max()) < 1e-6
    assert not constant.any()


def test_a_layer_that_varies_by_rounding_only_is_constant():
    generator = torch.Generator().manual_seed(0)
    values = torch.full((3, 50, 4), 300.0)
    values[1] *= 1 + 1e-7 * torch.randn(50, 4, generator=generator)
    values[2] *= 1 + 1e-4 * torch.randn(50, 4, generator=generator)
    assert Standardiser.of(values)[1].tolist() == [True, True, False]


def test_other_rows_are_scaled_by_the_statistics_of_the_training_rows():
    train, test = torch.tensor([[[0.0], [2.0]]]), torch.tensor([[[5.0], [7.0]]])
    standardiser, _ = Standardiser.of(train)
    assert standardiser(test).flatten().tolist() == [4.0, 6.0]


def test_a_standardiser_has_no_parameters():
    standardiser, _ = Standardiser.of(torch.randn(1, 5, 2))
    assert list(standardiser.parameters()) == []
    assert set(standardiser.state_dict()) == {"mean", "deviation"}
