"""A probe in a bank is the probe that it would be alone."""

from __future__ import annotations

import logging
from functools import partial

import pytest
import torch
from torch import nn

from probes.architectures import LinearProbe, MLPProbe
from probes.training import ProbeBank
from probes.training.bank import probe_bank as bank_module

LAYERS, REPLICAS = tuple(range(5)), (0, 1)


class WithLSTM(nn.Module):
    def __init__(self, in_features, num_classes):
        super().__init__()
        self.lstm = nn.LSTM(1, 3, batch_first=True)
        self.output = nn.Linear(3, num_classes)

    def forward(self, x):
        return self.output(self.lstm(x[..., None])[0][:, -1])


class WithBranch(nn.Module):
    def __init__(self, in_features, num_classes):
        super().__init__()
        self.output = nn.Linear(in_features, num_classes)

    def forward(self, x):
        return self.output(x if x.sum() > 0 else -x)


class WithTiedWeights(nn.Module):
    def __init__(self, in_features, num_classes):
        super().__init__()
        self.first, self.second = nn.Linear(in_features, in_features), nn.Linear(in_features, in_features)
        self.second.weight = self.first.weight
        self.output = nn.Linear(in_features, num_classes)

    def forward(self, x):
        return self.output(self.second(self.first(x)))


class WithBatchNorm(nn.Module):
    def __init__(self, in_features, num_classes):
        super().__init__()
        self.norm, self.output = nn.BatchNorm1d(in_features), nn.Linear(in_features, num_classes)

    def forward(self, x):
        return self.output(self.norm(x))


class WithFunctionalDropout(nn.Module):
    def __init__(self, in_features, num_classes):
        super().__init__()
        self.output = nn.Linear(in_features, num_classes)

    def forward(self, x):
        return self.output(nn.functional.dropout(x, 0.5, self.training))


class OneDropoutTwice(nn.Module):
    def __init__(self, in_features, num_classes):
        super().__init__()
        self.dropout, self.output = nn.Dropout(0.5), nn.Linear(in_features, num_classes)

    def forward(self, x):
        return self.output(self.dropout(self.dropout(x)))


class WithOddLinears(nn.Module):
    """Linear maps without bias, of three axes, and called by keyword."""

    def __init__(self, in_features, num_classes):
        super().__init__()
        self.first, self.second = nn.Linear(in_features, in_features, bias=False), nn.Linear(2, 4)
        self.output = nn.Linear(2 * in_features, num_classes)

    def forward(self, x):
        hidden = self.second(self.first(x).unflatten(1, (-1, 2))).relu().flatten(1)
        return nn.functional.linear(hidden, weight=self.output.weight, bias=self.output.bias)


ARCHITECTURES = [
    LinearProbe,
    partial(MLPProbe, hidden_features=8, num_hidden_layers=2, dropout=0.5),
    WithLSTM,
    WithBranch,
    WithTiedWeights,
    WithBatchNorm,
    WithFunctionalDropout,
    OneDropoutTwice,
    WithOddLinears,
]


def bank_of(architecture, *, layers=LAYERS, replicas=REPLICAS, seed=0, features=6):
    return ProbeBank(architecture, features, 3, layers=layers, replicas=replicas, seed=seed)


def inputs(rows=7, features=6):
    return torch.randn(len(LAYERS), rows, features, generator=torch.Generator().manual_seed(1))


def squared(probe, logits, targets):
    return (logits.sum(-1) - targets).square()


def gradients(bank, x, targets, *, step=3):
    bank.losses(x, targets, squared, step=step).sum().backward()
    return {name: parameter.grad.unflatten(0, bank.shape) for name, parameter in bank.named_parameters()}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_logits_and_gradients_alone_equal_those_in_a_bank(architecture):
    bank, x, targets = bank_of(architecture), inputs(), torch.arange(14.0).view(2, 7)
    logits, grads = bank(x, step=3), gradients(bank, x, targets)
    for layer, replica in ((0, 0), (2, 1), (4, 0)):
        alone = bank_of(architecture, layers=[layer], replicas=[replica])
        assert torch.allclose(alone(x[layer : layer + 1], step=3)[0, 0], logits[layer, replica], atol=1e-6)
        for name, grad in gradients(alone, x[layer : layer + 1], targets[replica : replica + 1]).items():
            assert torch.allclose(grad[0, 0], grads[name][layer, replica], rtol=1e-4, atol=1e-4), name


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_loop_gives_what_vmap_gives(architecture):
    bank, looping, x = bank_of(architecture), bank_of(architecture), inputs()
    looping.vectorised = False
    for _ in range(2):
        assert torch.allclose(bank(x, step=5), looping(x, step=5), atol=1e-6)
    assert all(
        torch.allclose(a, b) for a, b in zip(bank.state_dict().values(), looping.state_dict().values(), strict=True)
    )
    assert torch.allclose(bank.eval()(x), looping.eval()(x), atol=1e-6)


@pytest.mark.parametrize("architecture", [WithLSTM, WithBranch, WithFunctionalDropout])
def test_what_vmap_refuses_runs_in_a_loop_and_is_logged_once(architecture, caplog):
    bank_module._warned_architectures.clear()
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            bank = bank_of(architecture)
            bank(inputs())
            bank(inputs())
    assert not bank.vectorised
    assert [architecture.__name__ in record.message for record in caplog.records] == [True]


@pytest.mark.parametrize("architecture", [LinearProbe, WithTiedWeights, WithBatchNorm, OneDropoutTwice])
def test_what_vmap_can_run_runs_without_a_loop(architecture):
    bank = bank_of(architecture)
    bank(inputs())
    assert bank.vectorised


def test_initialisation_differs_by_layer_replica_and_seed_and_zero_is_a_seed():
    weight = bank_of(LinearProbe).get_parameter("linear/weight")
    assert len(weight.flatten(1).unique(dim=0)) == len(weight) == 10
    assert torch.equal(weight, bank_of(LinearProbe, seed=0).get_parameter("linear/weight"))
    assert not torch.equal(weight, bank_of(LinearProbe, seed=1).get_parameter("linear/weight"))


def test_construction_and_use_do_not_advance_the_global_generator():
    before = torch.random.get_rng_state()
    bank_of(WithFunctionalDropout)(inputs())
    assert torch.equal(torch.random.get_rng_state(), before)


def test_evaluation_and_training_mode_reach_the_skeleton():
    bank = bank_of(partial(MLPProbe, dropout=0.5))
    assert not torch.equal(bank(inputs(), step=0), bank(inputs(), step=1))
    bank.eval()
    assert torch.equal(bank(inputs(), step=0), bank(inputs(), step=1))
    bank.train()
    assert not torch.equal(bank(inputs(), step=0), bank(inputs(), step=1))


def test_the_state_holds_the_stacked_probes_only():
    bank = bank_of(LinearProbe)
    shapes = {name: tuple(value.shape) for name, value in bank.state_dict().items()}
    assert shapes == {"linear/weight": (10, 3, 6), "linear/bias": (10, 3)}
    assert list(bank.children()) == []  # a skeleton among the submodules would be saved, moved and trained


def test_a_selection_and_a_concatenation_keep_the_chosen_probes():
    bank, x = bank_of(WithBatchNorm), inputs()
    bank(x)
    chosen = torch.tensor([0, 1, 1, 0, 1])
    selected, logits = bank.select(chosen[:, None]).eval(), bank.eval()(x)
    assert torch.allclose(selected(x)[:, 0], logits[torch.arange(5), chosen], atol=1e-6)
    assert torch.allclose(
        ProbeBank.concatenate([selected, bank.select(chosen[:, None])])(x.repeat(2, 1, 1))[5:], selected(x)
    )


class WithPenalty(LinearProbe):
    def penalty(self):
        return 10 * self.linear.bias.square().sum()


def test_the_penalty_that_a_probe_brings_sees_the_parameters_of_that_probe():
    bank, x, targets = bank_of(WithPenalty), inputs(), torch.zeros(2, 7)
    plain = bank_of(LinearProbe).losses(x, targets, squared)
    bias = bank.get_parameter("linear/bias").view(5, 2, 3)
    assert torch.allclose(bank.losses(x, targets, squared), plain + 10 * bias.square().sum(-1, keepdim=True), rtol=1e-4)


def test_what_is_not_a_probe_is_refused():
    with pytest.raises(TypeError, match=r"nn\.Module with parameters; got Identity"):
        bank_of(lambda i, k: nn.Identity())
    with pytest.raises(TypeError, match=r"got int.*`probe\.architecture\._target_`"):
        bank_of(lambda i, k: 3)
    with pytest.raises(ValueError, match=r"shape \(7, 5\); expected \(rows, num_classes\) = \(7, 3\)"):
        bank_of(lambda i, k: nn.Linear(i, 5))(inputs())
