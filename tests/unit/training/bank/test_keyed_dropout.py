from __future__ import annotations

import pytest
import torch
from torch import nn

from probes.training import ProbeBank
from probes.training.bank.keyed_dropout import KeyedDropout, hash_bits, use_keyed_dropout

LAYERS, REPLICAS = range(5), (0, 1)
VARIANCE = 0.3 * 0.7
"""Of a mask that drops 30 % of the elements."""


class OnlyDropout(nn.Module):
    def __init__(self, in_features, num_classes):
        super().__init__()
        self.dropout, self.scale = nn.Dropout(0.3), nn.Parameter(torch.ones(1))

    def forward(self, x):
        return self.dropout(x) * self.scale


def bank_of_dropouts(layers=LAYERS, replicas=REPLICAS):
    return ProbeBank(OnlyDropout, 100, 100, layers=layers, replicas=replicas)


def kept(bank, *, step=0, rows=200):
    """Which elements the probes keep, shape `(layers · replicas, rows, 100)`."""
    return (bank(torch.ones(bank.shape[0], rows, 100), step=step) > 0).flatten(0, 1)


def dropped(probability, shape, *, key=7):
    dropout = KeyedDropout(probability)
    dropout.key = torch.tensor(key)
    return dropout(torch.ones(shape)) == 0


def test_kept_elements_are_scaled_by_their_share_and_evaluation_mode_keeps_all():
    bank, ones = bank_of_dropouts(), torch.ones(5, 200, 100)
    assert bank(ones).unique().tolist() == pytest.approx([0, 1 / (1 - round(0.3 * 2**16) / 2**16)])
    assert torch.equal(bank.eval()(ones), ones.unsqueeze(1).expand(5, 2, 200, 100))


def test_every_mask_drops_its_share_evenly_over_rows_and_columns():
    masks = kept(bank_of_dropouts()).float()
    assert torch.allclose(masks.mean((1, 2)), torch.tensor(0.7), atol=0.015)
    assert float(masks.mean(2).std()) == pytest.approx((VARIANCE / 100) ** 0.5, rel=0.1)
    assert float(masks.mean(1).std()) == pytest.approx((VARIANCE / 200) ** 0.5, rel=0.15)


def test_masks_of_different_layers_replicas_and_steps_are_uncorrelated():
    bank = bank_of_dropouts()
    centred = kept(bank).float().flatten(1) - 0.7
    correlation = centred @ centred.T / centred.shape[1] / VARIANCE
    assert float((correlation - torch.eye(10)).abs().max()) < 0.04
    later = kept(bank, step=1).float().flatten(1) - 0.7
    assert float(((centred * later).mean(1) / VARIANCE).abs().max()) < 0.04


def test_a_mask_does_not_depend_on_the_other_probes_of_the_bank():
    together = kept(bank_of_dropouts(), step=3).unflatten(0, (5, 2))
    for layer, replica in ((0, 0), (2, 1), (4, 0)):
        assert torch.equal(kept(bank_of_dropouts([layer], [replica]), step=3)[0], together[layer, replica])


@pytest.mark.parametrize("distance", range(1, 9))
def test_neighbouring_elements_are_dropped_independently(distance):
    centred = dropped(0.3, (400, 400)).float() - 0.3
    for axis in (0, 1):
        product = centred.narrow(axis, 0, 400 - distance) * centred.narrow(axis, distance, 400 - distance)
        assert abs(float(product.mean()) / VARIANCE) < 4 / 400


@pytest.mark.parametrize("shape", [(1,), (4001,), (41, 101), (3, 17, 83)])
def test_tensors_of_any_shape_are_masked(shape):
    mask = dropped(0.5, shape)
    assert tuple(mask.shape) == shape
    if mask.numel() > 1:
        assert float(mask.float().mean()) == pytest.approx(0.5, abs=4 * 0.5 / mask.numel() ** 0.5)


def test_a_probability_close_to_one_gives_finite_values():
    dropout = KeyedDropout(1 - 1e-9)
    dropout.key = torch.tensor(7)
    assert dropout(torch.ones(1000)).isfinite().all()


def test_a_dropout_that_is_called_twice_draws_two_masks():
    class Twice(OnlyDropout):
        def forward(self, x):
            return self.dropout(self.dropout(x)) * self.scale

    bank = ProbeBank(Twice, 100, 100, layers=(0,))
    assert float(kept(bank).float().mean()) == pytest.approx(0.7**2, abs=0.01)


def test_training_outside_a_bank_is_an_error():
    with pytest.raises(RuntimeError, match="no key in training mode"):
        KeyedDropout(0.5)(torch.ones(3))
    assert torch.equal(KeyedDropout(0.5).eval()(torch.ones(3)), torch.ones(3))


def test_every_dropout_is_replaced_and_a_shared_one_once():
    shared = nn.Dropout(0.2)
    module = nn.Sequential(nn.Sequential(nn.Linear(2, 2), shared), nn.Dropout(0.4), nn.Sequential(shared))
    replaced = use_keyed_dropout(module)
    assert [dropout.probability for dropout in replaced] == [0.4, 0.2]
    assert module[0][1] is module[2][0] is replaced[1]
    assert not any(type(child) is nn.Dropout for child in module.modules())


def test_hashing_is_one_to_one_and_each_bit_is_set_half_of_the_time():
    hashed = hash_bits(torch.arange(2**14))
    assert len(hashed.unique()) == 2**14
    share = torch.stack([(hashed >> bit & 1).float().mean() for bit in range(64)])
    assert float((share - 0.5).abs().max()) < 5 * 0.5 / 2**7
