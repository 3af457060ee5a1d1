from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import nn

from probes.architectures import ACTIVATION_FUNCTIONS, LinearProbe, MLPProbe


def test_a_linear_probe_is_one_affine_map_without_softmax():
    probe, x = LinearProbe(4, 3), torch.randn(5, 4)
    assert torch.equal(probe(x), x @ probe.linear.weight.T + probe.linear.bias)


@pytest.mark.parametrize("activation", ACTIVATION_FUNCTIONS)
def test_an_mlp_probe_has_the_requested_hidden_layers(activation):
    probe = MLPProbe(4, 3, hidden_features=8, num_hidden_layers=2, dropout=0.0, activation=activation)
    assert [tuple(m.weight.shape) for m in probe.modules() if isinstance(m, nn.Linear)] == [(8, 4), (8, 8), (3, 8)]
    assert probe(torch.randn(5, 4)).shape == (5, 3)


def test_a_nonlinear_probe_learns_what_a_linear_one_cannot():
    x = torch.randn(400, 2, generator=torch.Generator().manual_seed(0))
    y = (x[:, 0] * x[:, 1] > 0).long()
    accuracy = {}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for probe in (LinearProbe(2, 2), MLPProbe(2, 2, hidden_features=16, dropout=0.0)):
            optimizer = torch.optim.Adam(probe.parameters(), lr=0.03)
            for _ in range(150):
                optimizer.zero_grad()
                nn.functional.cross_entropy(probe(x), y).backward()
                optimizer.step()
            accuracy[type(probe)] = float((probe(x).argmax(1) == y).float().mean())
    assert accuracy[LinearProbe] < 0.65 < 0.9 < accuracy[MLPProbe]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"hidden_features": 0}, r"`probe\.architecture\.hidden_features`"),
        ({"num_hidden_layers": 0}, r"`probe\.architecture\.num_hidden_layers`"),
        ({"dropout": 1.0}, r"`probe\.architecture\.dropout`"),
        ({"activation": "swish"}, r"gelu, relu, silu, tanh.*`probe\.architecture\.activation`"),
    ],
)
def test_an_argument_out_of_range_is_an_error_that_names_its_key(arguments, message):
    with pytest.raises(ValueError, match=message):
        MLPProbe(4, 3, **arguments)


def test_architectures_and_metrics_import_no_framework():
    code = (
        "import sys, probes.architectures, probes.metrics\n"
        "bad = {'lightning', 'hydra', 'omegaconf', 'wandb', 'matplotlib', 'transformers'} & set(sys.modules)\n"
        "raise SystemExit(' '.join(sorted(bad)) or None)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
