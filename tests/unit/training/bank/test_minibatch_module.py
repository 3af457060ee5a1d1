"""Minibatch training against a plain loop over one probe; its losses, clipping and early stopping."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn

from probes.architectures import LinearProbe
from probes.trainers import quiet_lightning
from probes.training import MinibatchProbeModule, ProbeBank, ProbeSettings, Standardiser, default_trainer
from probes.training.bank.minibatch_module import (
    PerProbeEarlyStopping,
    class_weights,
    clip_each_probe,
    default_row_loss,
)
from probes.training.data_module import ActivationDataModule, RowBatches, Rows


def rows(count, *, layers=3, seed=0, controls=1):
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(layers, count, 6, generator=generator) * 3 + 1
    true = (values[1, :, 0] + torch.randn(count, generator=generator) > 1).long()
    targets = torch.stack([true, *(true[torch.randperm(count, generator=generator)] for _ in range(controls))])
    return Rows(values, targets, torch.ones(targets.shape))


def fit(settings, train, validation, *, layers=(0, 1, 2), seed=0):
    replicas = [control for _ in settings.penalties for control in range(len(train.targets))]
    bank = ProbeBank(settings.architecture, 6, 2, layers=layers, replicas=replicas, seed=seed)
    standardiser, _ = Standardiser.of(train.values)
    module = MinibatchProbeModule(bank, standardiser, kind="classification", settings=settings)
    data = ActivationDataModule(train, validation, batch_size=settings.batch_size, seed=seed)
    with quiet_lightning():
        trainer = default_trainer(max_epochs=settings.max_epochs, num_sanity_val_steps=0)
        trainer.fit(module, datamodule=data)
    return module, trainer


def plain_loop(settings, train, validation, *, layer, penalty, control, start):
    """The state, at its best epoch, of one probe trained by the ordinary loop."""
    mean, deviation = train.values[layer].mean(0), train.values[layer].std(0, correction=0)
    probe = LinearProbe(6, 2)
    probe.load_state_dict(start)
    optimizer = torch.optim.AdamW(probe.parameters(), lr=settings.learning_rate, weight_decay=0)
    batches = RowBatches(train, settings.batch_size, shuffle_seed=0)
    steps, done = settings.max_epochs * len(batches), 0
    best, lowest, epochs_without_improvement = None, float("inf"), 0
    for _ in range(settings.max_epochs):
        for batch in batches:
            optimizer.zero_grad()
            logits = probe((batch.values[layer] - mean) / deviation)
            loss = nn.functional.cross_entropy(logits, batch.targets[control])
            (loss + penalty / 2 * probe.linear.weight.square().sum()).backward()
            nn.utils.clip_grad_norm_(probe.parameters(), settings.gradient_clip_norm)
            if settings.schedule == "linear":
                optimizer.param_groups[0]["lr"] = settings.learning_rate * (1 - done / steps)
            optimizer.step()
            done += 1
        with torch.no_grad():
            logits = probe((validation.values[layer] - mean) / deviation)
            value = float(nn.functional.cross_entropy(logits, validation.targets[control]))
        if value < lowest:
            lowest, epochs_without_improvement = value, 0
            best = {name: tensor.clone() for name, tensor in probe.state_dict().items()}
        else:
            epochs_without_improvement += 1
        if epochs_without_improvement >= settings.patience:
            break
    return best


@pytest.mark.parametrize(("patience", "schedule"), [(1, "constant"), (30, "constant"), (30, "linear")])
def test_every_probe_of_a_bank_equals_the_probe_of_a_plain_loop(patience, schedule):
    settings = ProbeSettings(
        penalties=(0.0, 0.3),
        learning_rate=0.05,
        schedule=schedule,
        batch_size=16,
        max_epochs=12,
        patience=patience,
        gradient_clip_norm=0.2,
    )
    train, validation = rows(90), rows(40, seed=1)
    module, trainer = fit(settings, train, validation)
    fresh = ProbeBank(LinearProbe, 6, 2, layers=(0, 1, 2), replicas=(0, 1, 0, 1), seed=0)
    assert trainer.global_step == trainer.current_epoch * 6
    for number in range(12):
        layer, replica = divmod(number, 4)
        start = {name: fresh.state_dict()[name.replace(".", "/")][number] for name in ("linear.weight", "linear.bias")}
        expected = plain_loop(
            settings,
            train,
            validation,
            layer=layer,
            penalty=settings.penalties[replica // 2],
            control=replica % 2,
            start=start,
        )
        for name, value in expected.items():
            assert torch.allclose(module.bank.state_dict()[name.replace(".", "/")][number], value, atol=1e-4), number


def test_a_layer_is_trained_to_the_same_probe_alone_and_in_a_bank():
    settings = ProbeSettings(
        architecture=partial(LinearProbe), penalties=(0.01,), learning_rate=0.02, batch_size=16, max_epochs=6
    )
    train, validation = rows(90, layers=31), rows(40, layers=31, seed=1)
    together, _ = fit(settings, train, validation, layers=range(31))
    for layer in (0, 30):
        one = slice(layer, layer + 1)
        alone, _ = fit(settings, train.of_layers(one), validation.of_layers(one), layers=[layer])
        for name, value in alone.bank.state_dict().items():
            assert torch.allclose(value, together.bank.state_dict()[name][2 * layer : 2 * layer + 2], atol=1e-6)


def test_each_probes_gradient_is_clipped_by_its_norm():
    parameters = [nn.Parameter(torch.zeros(3, 2, 2)), nn.Parameter(torch.zeros(3, 2))]
    parameters[0].grad = torch.stack([torch.full((2, 2), v) for v in (0.01, 10.0, 0.0)])
    parameters[1].grad = torch.stack([torch.full((2,), v) for v in (0.01, 10.0, 0.0)])
    before = [p.grad.clone() for p in parameters]
    clip_each_probe(parameters, 1.0)
    norms = sum(p.grad.flatten(1).square().sum(1) for p in parameters).sqrt()
    assert norms.tolist() == pytest.approx([0.01 * 6**0.5, 1.0, 0.0])
    assert torch.equal(parameters[0].grad[0], before[0][0])


def test_a_stopped_probe_keeps_its_best_state_while_other_probes_are_trained():
    bank = ProbeBank(LinearProbe, 2, 2, layers=(0, 1))
    early_stopping = PerProbeEarlyStopping(bank, patience=2)
    history = [[1.0, 9.0], [2.0, 8.0], [3.0, 7.0], [0.1, 6.0], [float("nan"), float("nan")]]
    for epoch, losses in enumerate(history):
        with torch.no_grad():
            for parameter in bank.parameters():
                parameter.fill_(epoch)
        early_stopping.update(torch.tensor(losses)[:, None])
    assert early_stopping.stopped.flatten().tolist() == [True, False]
    early_stopping.restore()
    assert bank.get_parameter("linear/bias")[:, 0].tolist() == [0.0, 3.0]
    assert early_stopping.lowest.flatten().tolist() == [1.0, 6.0]


def test_balanced_weights_give_every_class_the_same_total_and_rows_a_mean_of_one():
    targets = torch.tensor([0] * 30 + [1] * 9 + [2])
    weights = class_weights(targets, 3)[targets]
    assert float(weights.mean()) == pytest.approx(1)
    assert [float(weights[targets == k].sum()) for k in range(3)] == pytest.approx([40 / 3] * 3)


def test_the_default_losses_equal_those_of_torch():
    generator = torch.Generator().manual_seed(0)
    logits, classes = torch.randn(4, 7, 3, generator=generator), torch.randint(3, (4, 7), generator=generator)
    expected = nn.functional.cross_entropy(logits.flatten(0, 1), classes.flatten(), reduction="none").view(4, 7)
    assert torch.allclose(default_row_loss("classification", logits, classes), expected, atol=1e-6)
    labels = torch.randint(2, (4, 7, 3), generator=generator).float()
    expected = nn.functional.binary_cross_entropy_with_logits(logits, labels, reduction="none").sum(-1)
    assert torch.equal(default_row_loss("multilabel", logits, labels), expected)
    numbers = torch.randn(4, 7, generator=generator)
    assert torch.allclose(default_row_loss("regression", logits[..., :1], numbers), (logits[..., 0] - numbers) ** 2)


def test_a_loss_that_is_a_mean_cannot_be_weighted_by_class():
    class Mean(LinearProbe):
        def loss(self, logits, targets):
            return nn.functional.cross_entropy(logits, targets)

    settings = ProbeSettings(architecture=Mean, class_weights="balanced", penalties=(0.0,), max_epochs=1)
    with pytest.raises(ValueError, match=r"loss of Mean is a mean.*`probe\.class_weights=null`"):
        fit(settings, rows(20), rows(20, seed=1))
