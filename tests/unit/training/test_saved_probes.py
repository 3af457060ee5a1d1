from __future__ import annotations

import importlib
import sys
from dataclasses import replace
from functools import partial

import pytest
import torch
from planted_tasks import EXACT, MINIBATCH, MLP, PLANTED, READING, fit, planted_task, result
from safetensors.torch import save_file

from probes.training import load_probes, save_probes

USER_MODULE = '''
import torch
from torch import nn


class PrototypeProbe(nn.Module):
    """Scores by distance to a learned prototype of each class; brings a loss, a penalty and an optimizer."""

    calls = set()

    def __init__(self, in_features, num_classes, scale=1.0):
        super().__init__()
        self.prototypes = nn.Parameter(torch.randn(num_classes, in_features))
        self.scale = scale

    def forward(self, x):
        return -self.scale * (x[:, None] - self.prototypes).square().mean(-1)

    def loss(self, logits, targets):
        self.calls.add("loss")
        return nn.functional.cross_entropy(logits, targets, label_smoothing=0.1)

    def penalty(self):
        self.calls.add("penalty")
        return 1e-3 * self.prototypes.square().sum()

    def configure_optimizer(self, params):
        self.calls.add("configure_optimizer")
        return torch.optim.SGD(params, lr=0.5, momentum=0.9)
'''


@pytest.fixture
def prototype_probe(tmp_path, monkeypatch):
    (tmp_path / "a_users_module.py").write_text(USER_MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    yield importlib.import_module("a_users_module").PrototypeProbe
    del sys.modules["a_users_module"]


def equal(a, b):
    """Whether tensors are equal, NaN included."""
    return torch.equal(a.isnan(), b.isnan()) and torch.equal(a.nan_to_num(), b.nan_to_num())


@pytest.mark.parametrize(
    ("kind", "classes", "metric"),
    [("classification", 3, "accuracy"), ("multilabel", 3, "label_accuracy"), ("regression", 1, "mse")],
)
@pytest.mark.parametrize("settings", [EXACT, MINIBATCH], ids=["exact", "minibatch"])
def test_loaded_probes_predict_the_same_and_describe_themselves(settings, kind, classes, metric, tmp_path):
    data = planted_task(classes=classes, kind=kind)
    data.train.activations.values[1] = 2.0
    fitted = fit(data, settings)
    path = fitted.save(tmp_path / "new_folder" / "probes.safetensors", {"fingerprint": "abc"})
    loaded, values = load_probes(path), data.test.activations.values
    assert equal(loaded.logits(values), fitted.probes.logits(values))
    assert equal(loaded.predict(values), fitted.probes.predict(values))
    assert (loaded.task, loaded.kind, loaded.labels, loaded.layers) == ("planted", kind, data.labels, data.layers)
    assert (loaded.constant, loaded.reading, loaded.metadata) == ((1,), READING, {"fingerprint": "abc"})
    assert equal(torch.tensor(loaded.penalties), torch.tensor(fitted.probes.penalties))
    difference = loaded.predict(values)[PLANTED] - data.test.targets
    score = difference.square().mean() if kind == "regression" else (difference == 0).float().mean()
    assert float(score) == pytest.approx(result(fitted, metric).value, rel=1e-4)


def test_probes_of_a_users_class_train_save_and_load(prototype_probe, tmp_path):
    data = planted_task(classes=3)
    fitted = fit(data, replace(MINIBATCH, architecture=partial(prototype_probe, scale=3.0), max_epochs=30))
    assert prototype_probe.calls == {"loss", "penalty", "configure_optimizer"}
    assert result(fitted, "macro_f1").value > 0.75
    loaded = load_probes(fitted.save(tmp_path / "probes.safetensors"), allow=["a_users_module"])
    values = data.test.activations.values
    assert torch.equal(loaded.logits(values), fitted.probes.logits(values))
    assert loaded.architecture.keywords == {"scale": 3.0}


def test_a_task_without_probes_saves_and_loads(tmp_path):
    data = planted_task()
    for split in (data.train, data.validation, data.test):
        split.activations.values[:] = 3.5
    loaded = load_probes(fit(data).save(tmp_path / "probes.safetensors"))
    assert (loaded.bank, loaded.constant) == (None, (0, 1, 2, 3))
    assert (loaded.predict(data.test.activations.values) == -1).all()


def test_saving_again_adds_to_the_metadata_and_replaces_the_file(tmp_path):
    path = tmp_path / "probes.safetensors"
    first = load_probes(fit(planted_task()).save(path, {"backbone": "a", "run": 1}))
    save_probes(first, path, {"run": 2})
    assert load_probes(path).metadata == {"backbone": "a", "run": 2}
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_of_another_kind_is_refused(tmp_path):
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="holds no probes"):
        load_probes(tmp_path / "other.safetensors")


@pytest.mark.parametrize(
    ("architecture", "message"),
    [
        (lambda in_features, num_classes: MLP(in_features, num_classes), "can't be saved.*importable class"),
        (partial(MLP, activation=torch.zeros(1)), "can't be saved.*written as JSON"),
    ],
    ids=["lambda", "tensor argument"],
)
def test_an_architecture_that_a_file_cannot_describe_cannot_be_saved(architecture, message, tmp_path):
    probes = replace(fit(planted_task()).probes, architecture=architecture)
    with pytest.raises(ValueError, match=message):
        save_probes(probes, tmp_path / "probes.safetensors")
    assert not list(tmp_path.iterdir())
