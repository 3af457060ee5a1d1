from __future__ import annotations

import pytest
import torch
from planted_tasks import PLANTED, fit, planted_task


def test_logits_are_those_of_each_layers_probe_and_nan_at_a_constant_layer():
    data = planted_task(classes=3)
    data.train.activations.values[0] = 2.0
    probes, values = fit(data).probes, data.test.activations.values
    logits = probes.logits(values)
    assert logits.shape == (4, 160, 3)
    assert logits[0].isnan().all()
    assert probes.probed_layers == (1, 2, 3)
    weight, bias = (probes.bank.get_parameter(f"linear/{name}")[1] for name in ("weight", "bias"))
    standardised = (values[PLANTED] - probes.standardiser.mean[1]) / probes.standardiser.deviation[1]
    torch.testing.assert_close(logits[PLANTED], standardised @ weight.T + bias)
    assert torch.equal(probes.predict(values)[PLANTED], logits[PLANTED].argmax(1))


@pytest.mark.parametrize("shape", [(3, 5, 10), (4, 5, 11), (5, 10)])
def test_activations_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match=r"= \(4, .*10\); got \(.*layers are 0, 1, 2, 3"):
        fit(planted_task()).probes.logits(torch.zeros(shape))
