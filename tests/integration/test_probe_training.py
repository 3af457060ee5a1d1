"""A task from activations to scores, through a real Lightning trainer."""

import importlib
import logging
import math
import sys
from collections import Counter
from dataclasses import replace
from functools import partial

import pytest
import torch

from probes.architectures import MLPProbe
from probes.training import ProbeSettings, TaskData, default_trainer, fit_probes, fit_task, load_probes
from probes.training import selection as selection_module
from probes.values import Activations, Reading

READING = Reading("decoder", "residual", "last")
PLANTED = 2
"""The layer whose activations hold the label; the others hold noise."""

MLP = partial(MLPProbe, hidden_features=8, dropout=0.2)
MINIBATCH = ProbeSettings(
    name="mlp", architecture=MLP, penalties=(0.0,), learning_rate=0.02, batch_size=32, max_epochs=15,
    min_validation_rows=50, bootstrap_samples=100,
)  # fmt: skip
EXACT = ProbeSettings(bootstrap_samples=100, min_validation_rows=50)


def pair(rows, *, classes, seed, layers=4, planted=True, noise=0.3, kind="classification"):
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(layers, rows, 10, generator=generator) * 4 + 7
    hidden = torch.randn(rows, classes, generator=generator)
    if planted:
        values[PLANTED, :, :classes] = 4 * (hidden + noise * torch.randn(rows, classes, generator=generator)) + 7
    targets = {"classification": hidden.argmax(1), "multilabel": (hidden > 0).float(), "regression": 50 * hidden[:, 0]}
    ids = tuple(f"{seed}-{row}" for row in range(rows))
    return Activations(values, tuple(range(layers)), ids, READING), targets[kind]


def task(*, classes=2, kind="classification", rows=(240, 100, 160), seed=0, **own):
    splits = {
        split: pair(count, classes=classes, seed=10 * seed + i, kind=kind, **own)
        for i, (split, count) in enumerate(zip(("train", "validation", "test"), rows, strict=True))
    }
    labels = () if kind == "regression" else tuple(f"label-{k}" for k in range(classes))
    return TaskData(task="planted", kind=kind, labels=labels, **splits)


def fit(data, settings=EXACT, *, seed=0):
    return fit_task(data, settings, default_trainer, seed)


def cell(fitted, metric, layer=PLANTED, *, split="test", control=""):
    found = [
        r for r in fitted.results if (r.metric, r.layer, r.split, r.control) == (metric, layer, split, control)
    ]  # fmt: skip
    assert len(found) == 1
    return found[0]


def state(fitted):
    return {**fitted.probes.bank.state_dict(), **fitted.probes.standardiser.state_dict()}


@pytest.mark.parametrize("settings", [EXACT, MINIBATCH], ids=["exact", "minibatch"])
@pytest.mark.parametrize("classes", [2, 3])
def test_a_planted_label_is_found_at_its_layer_and_a_shuffled_or_absent_one_nowhere(settings, classes):
    fitted = fit(task(classes=classes, noise=0.15), settings)
    assert fitted.validation_best_layer == PLANTED
    assert fitted.objective > 0.8
    planted, control = cell(fitted, "macro_f1"), cell(fitted, "macro_f1", control="shuffled_labels")
    assert planted.value > 0.8
    assert abs(control.value - 1 / classes) < 0.2
    assert planted.null_mean == control.value
    for layer in (0, 1, 3):
        assert abs(cell(fitted, "accuracy", layer).value - 1 / classes) < 0.15
    selectivity = cell(fitted, "selectivity")
    assert selectivity.value == pytest.approx(planted.value - control.value)
    assert selectivity.ci_low > 0.15
    elsewhere = [cell(fitted, "selectivity", layer) for layer in (0, 1, 3)]
    assert sum(noise.ci_low < 0 < noise.ci_high for noise in elsewhere) >= 2  # each interval misses once in twenty
    absent = fit(task(classes=classes, planted=False), settings)
    assert abs(cell(absent, "accuracy").value - 1 / classes) < 0.15


@pytest.mark.parametrize("settings", [EXACT, MINIBATCH], ids=["exact", "minibatch"])
def test_regression_is_scored_in_the_unit_of_its_targets(settings):
    fitted = fit(task(classes=1, kind="regression"), settings)
    assert fitted.validation_best_layer == PLANTED
    assert cell(fitted, "r2").value > 0.8
    assert cell(fitted, "spearman").value > 0.9
    assert cell(fitted, "mse").value == pytest.approx((1 - cell(fitted, "r2").value) * 2500, rel=0.35)
    assert fitted.objective == -cell(fitted, "mse", split="validation").value
    assert cell(fitted, "r2", control="shuffled_labels").value < 0.1


@pytest.mark.parametrize("settings", [EXACT, MINIBATCH], ids=["exact", "minibatch"])
def test_multilabel_tasks_are_probed_label_by_label(settings):
    fitted = fit(task(classes=3, kind="multilabel"), settings)
    assert fitted.validation_best_layer == PLANTED
    assert cell(fitted, "label_accuracy").value > 0.85 > 0.7 > cell(fitted, "label_accuracy", 0).value
    predicted = fitted.probes.predict(task(classes=3, kind="multilabel").test.activations.values)
    assert predicted.shape == (4, 160, 3)
    assert set(predicted.unique().tolist()) == {0, 1}


def test_every_score_stands_beside_its_baselines():
    fitted = fit(task(classes=3))
    metrics = ("accuracy", "macro_f1", "cross_entropy_bits")
    kinds = Counter((r.split, r.control, r.metric) for r in fitted.results)
    for split in ("train", "validation", "test"):
        for metric in metrics:
            assert kinds[split, "", metric] == kinds[split, "shuffled_labels", metric] == 4
            assert kinds[split, "majority", metric] == 1
        assert kinds[split, "", "selectivity"] == 4
    for r in fitted.results:
        assert (r.task, r.stack, r.site, r.pooling, r.probe, r.seed) == (
            "planted",
            "decoder",
            "residual",
            "last",
            "linear",
            0,
        )
        assert (r.ci_low is None) == (r.split == "train" or r.control == "majority")
        assert (r.layer is None) == (r.control == "majority") == (r.penalty is None)
        assert r.ci_low is None or r.ci_low <= r.value <= r.ci_high
        assert r.n == {"train": 240, "validation": 100, "test": 160}[r.split]
    assert cell(fit(task(classes=2)), "auroc").value > 0.9


def test_without_controls_or_resamples_there_are_no_such_numbers():
    fitted = fit(task(), replace(EXACT, controls=0, bootstrap_samples=0))
    assert {r.control for r in fitted.results} == {"", "majority"}
    assert all(r.ci_low is None and r.null_mean is None and r.metric != "selectivity" for r in fitted.results)


def test_several_controls_are_averaged():
    fitted = fit(task(), replace(EXACT, controls=3))
    control = cell(fitted, "macro_f1", control="shuffled_labels")
    assert control.note == "mean of 3 shuffles"
    assert cell(fitted, "macro_f1").null_mean == control.value


@pytest.mark.parametrize("settings", [EXACT, MINIBATCH], ids=["exact", "minibatch"])
def test_nothing_is_chosen_on_test(settings):
    data, other = task(), task(seed=9)
    swapped = replace(data, test=other.test)
    first, second = fit(data, settings), fit(swapped, settings)
    assert first.probes.penalties == second.probes.penalties
    assert all(torch.equal(a, b) for a, b in zip(state(first).values(), state(second).values(), strict=True))
    assert (first.validation_best_layer, first.objective) == (second.validation_best_layer, second.objective)
    assert cell(first, "macro_f1").value != cell(second, "macro_f1").value


def test_the_penalty_is_the_one_with_the_best_validation_score_the_larger_of_equals_and_may_differ_by_layer():
    data = task(rows=(60, 200, 60), classes=3)
    fitted = fit(data)
    one_by_one = {p: fit(data, replace(EXACT, penalties=(p,))) for p in EXACT.penalties}
    for layer in range(4):
        scores = {p: cell(f, "macro_f1", layer, split="validation").value for p, f in one_by_one.items()}
        assert fitted.probes.penalties[layer] == max(scores, key=lambda p: (scores[p], p))
    assert len(set(fitted.probes.penalties)) > 1


@pytest.mark.parametrize("settings", [EXACT, MINIBATCH], ids=["exact", "minibatch"])
def test_statistics_come_from_train_alone(settings):
    data = task()
    fitted, train = fit(data, settings), data.train.activations.values
    assert torch.allclose(fitted.probes.standardiser.mean, train.mean(1), atol=1e-4)
    assert torch.allclose(fitted.probes.standardiser.deviation, train.std(1, correction=0), atol=1e-4)


@pytest.mark.parametrize("settings", [EXACT, MINIBATCH], ids=["exact", "minibatch"])
def test_the_same_seed_gives_the_same_numbers_zero_included(settings):
    data = task()
    first, again, other = fit(data, settings), fit(data, settings), fit(data, settings, seed=1)
    assert first.results == again.results
    assert [r.value for r in first.results] != [r.value for r in other.results]


@pytest.mark.parametrize("settings", [EXACT, MINIBATCH], ids=["exact", "minibatch"])
def test_a_layer_scores_alike_alone_and_among_others_and_in_turns(settings):
    data = task()

    def only(pair):
        activations, targets = pair
        return Activations(activations.values[PLANTED:3], (PLANTED,), activations.row_ids, READING), targets

    alone = replace(data, train=only(data.train), validation=only(data.validation), test=only(data.test))
    together, single, turns = fit(data, settings), fit(alone, settings), fit(data, replace(settings, max_bank_bytes=1))
    assert cell(single, "cross_entropy_bits").value == pytest.approx(
        cell(together, "cross_entropy_bits").value, abs=1e-5
    )
    for name, value in state(together).items():
        assert torch.allclose(value, state(turns)[name], atol=1e-5), name


@pytest.mark.parametrize("settings", [EXACT, MINIBATCH], ids=["exact", "minibatch"])
@pytest.mark.parametrize("validation_rows", [0, 30])
def test_few_validation_rows_are_replaced_by_cross_validation(settings, validation_rows, monkeypatch):
    fits = []
    train_bank = selection_module.train_bank
    monkeypatch.setattr(selection_module, "train_bank", lambda *a: fits.append(len(a[0])) or train_bank(*a))
    fitted = fit(task(rows=(200, validation_rows, 100)), settings)
    assert len(fits) == 6
    score = cell(fitted, "macro_f1", split="validation")
    assert score.n == 200 + validation_rows
    assert score.note == "out of fold, 5-fold cross-validation"
    assert score.value > 0.8
    assert abs(cell(fitted, "macro_f1", 0, split="validation").value - 0.5) < 0.12
    assert fitted.validation_best_layer == PLANTED


def test_a_constant_layer_is_a_marked_cell():
    data = task()
    for split in (data.train, data.validation, data.test):
        split.activations.values[1] = 3.5
    fitted = fit(data)
    for metric in ("accuracy", "macro_f1", "auroc", "cross_entropy_bits", "selectivity"):
        constant = cell(fitted, metric, 1)
        assert math.isnan(constant.value)
        assert "constant layer" in constant.note
    assert fitted.validation_best_layer == PLANTED
    predicted = fitted.probes.predict(data.test.activations.values)
    assert (predicted[1] == -1).all()
    assert (predicted[[0, 2, 3]] >= 0).all()


@pytest.mark.parametrize("constant", [0, 1, 3])
def test_the_other_layers_keep_their_scores_whichever_layer_is_constant(constant):
    data, whole = task(), fit(task())
    for split in (data.train, data.validation, data.test):
        split.activations.values[constant] = 3.5
    fitted = fit(data)
    for layer in {0, 1, 2, 3} - {constant}:
        assert cell(fitted, "cross_entropy_bits", layer).value == pytest.approx(
            cell(whole, "cross_entropy_bits", layer).value, abs=2e-4
        )
    values = [cell(whole, "cross_entropy_bits", layer).value for layer in range(4)]
    assert min(abs(a - b) for i, a in enumerate(values) for b in values[:i]) > 2e-3  # else a swap would not be seen


def test_only_constant_layers_give_marked_cells_and_no_best_layer(tmp_path):
    data = task()
    for split in (data.train, data.validation, data.test):
        split.activations.values[:] = 3.5
    fitted = fit(data)
    assert fitted.validation_best_layer is None
    assert math.isnan(fitted.objective)
    assert all(math.isnan(r.value) for r in fitted.results if r.control != "majority")
    again = load_probes(fitted.save(tmp_path / "probes.safetensors"))
    assert (again.predict(data.test.activations.values) == -1).all()


def test_a_probe_that_did_not_converge_says_so():
    fitted = fit(task(), replace(EXACT, max_iterations=1, tolerance=1e-9))
    assert "not converged" in cell(fitted, "macro_f1").note
    assert cell(fit(task()), "macro_f1").note == ""


MY_PROBE = '''
import torch
from torch import nn


class MyProbe(nn.Module):
    """Scores by distance to a learned centre of each class; brings loss, penalty and optimizer of its own."""

    calls = set()

    def __init__(self, in_features, num_classes, scale=1.0):
        super().__init__()
        self.centres = nn.Parameter(torch.randn(num_classes, in_features))
        self.scale = scale

    def forward(self, x):
        return -self.scale * (x[:, None] - self.centres).square().mean(-1)

    def loss(self, logits, targets):
        self.calls.add("loss")
        return nn.functional.cross_entropy(logits, targets, label_smoothing=0.1)

    def penalty(self):
        self.calls.add("penalty")
        return 1e-3 * self.centres.square().sum()

    def configure_optimizer(self, params):
        self.calls.add("configure_optimizer")
        return torch.optim.SGD(params, lr=0.5, momentum=0.9)
'''


@pytest.fixture
def my_probe(tmp_path, monkeypatch):
    (tmp_path / "somebodys_module.py").write_text(MY_PROBE)
    monkeypatch.syspath_prepend(tmp_path)
    yield importlib.import_module("somebodys_module").MyProbe
    del sys.modules["somebodys_module"]


def test_a_class_from_outside_the_package_trains_saves_and_loads(my_probe, tmp_path):
    data = task(classes=3)
    settings = replace(MINIBATCH, architecture=partial(my_probe, scale=3.0), max_epochs=30)
    fitted = fit(data, settings)
    assert my_probe.calls == {"loss", "penalty", "configure_optimizer"}
    assert cell(fitted, "macro_f1").value > 0.75
    again = load_probes(fitted.save(tmp_path / "mine.safetensors"))
    values = data.test.activations.values
    assert torch.equal(again.logits(values), fitted.probes.logits(values))
    assert again.architecture.keywords == {"scale": 3.0}


@pytest.mark.parametrize(("kind", "classes"), [("classification", 3), ("multilabel", 3), ("regression", 1)])
@pytest.mark.parametrize("settings", [EXACT, MINIBATCH], ids=["exact", "minibatch"])
def test_saved_probes_predict_the_same_and_hold_what_it_takes_to_use_them(settings, kind, classes, tmp_path):
    data = task(classes=classes, kind=kind)
    data.train.activations.values[1] = 2.0
    fitted = fit(data, settings)
    path = fitted.save(tmp_path / "deep" / "probes.safetensors", {"fingerprint": "abc"})
    again, values = load_probes(path), data.test.activations.values
    assert torch.equal(again.logits(values).nan_to_num(), fitted.probes.logits(values).nan_to_num())
    assert torch.equal(again.predict(values).nan_to_num(), fitted.probes.predict(values).nan_to_num())
    assert (again.task, again.kind, again.labels, again.layers) == ("planted", kind, data.labels, data.layers)
    assert (again.constant, again.reading, again.metadata) == ((1,), READING, {"fingerprint": "abc"})
    scored = cell(fitted, {"classification": "accuracy", "multilabel": "label_accuracy", "regression": "mse"}[kind])
    right = again.predict(values)[PLANTED] - data.test.targets
    value = right.square().mean() if kind == "regression" else (right == 0).float().mean()
    assert float(value) == pytest.approx(scored.value, rel=1e-4)


def test_probes_refuse_activations_of_another_shape_and_files_of_another_kind(tmp_path):
    fitted = fit(task())
    with pytest.raises(ValueError, match=r"\(4, 5, 10\); got \(3, 5, 10\).*layers are 0, 1, 2, 3"):
        fitted.probes.logits(torch.zeros(3, 5, 10))
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="holds no probes"):
        load_probes(tmp_path / "other.safetensors")


def test_probes_of_a_class_without_a_name_cannot_be_saved(tmp_path):
    fitted = fit(task(), replace(MINIBATCH, architecture=lambda i, k: MLP(i, k), max_epochs=1))
    with pytest.raises(ValueError, match="can't be saved"):
        fitted.save(tmp_path / "probes.safetensors")


def test_a_checkpoint_holds_probes_and_their_statistics_only(tmp_path):
    kept = []

    class Keeping:
        def __call__(self, **overrides):
            kept.append(default_trainer(**overrides))
            return kept[-1]

    for settings in (EXACT, MINIBATCH):
        fit_task(task(), settings, Keeping(), 0)
        kept[-1].save_checkpoint(tmp_path / "probes.ckpt")
        names = torch.load(tmp_path / "probes.ckpt", weights_only=False)["state_dict"]
        assert {name.partition(".")[0] for name in names} == {"bank", "standardiser"}
        assert kept[-1].global_step > 0


def test_an_exact_fit_that_cannot_be_is_an_error():
    with pytest.raises(ValueError, match=r"Only LinearProbe can be solved exactly.*MLPProbe.*`probe\.fit`"):
        fit(task(), replace(MINIBATCH, fit="exact"))
    with pytest.raises(ValueError, match=r"penalties above 0.*`probe\.penalties`"):
        fit(task(), replace(EXACT, fit="exact", penalties=(0.0, 1.0)))


def test_minibatches_come_near_the_exact_optimum_of_the_same_penalty():
    data = task(classes=3, rows=(240, 100, 160))
    penalty = {"penalties": (0.1,)}
    exact = fit(data, replace(EXACT, **penalty))
    near = fit(
        data,
        replace(EXACT, fit="minibatch", batch_size=240, learning_rate=0.02, max_epochs=200, patience=200, **penalty),
    )
    ours, theirs = (cell(f, "cross_entropy_bits", split="train").value for f in (near, exact))
    assert ours == pytest.approx(theirs, abs=0.02)


def test_balanced_class_weights_lift_the_rare_class():
    data = task(planted=True, classes=2, rows=(400, 200, 400))
    rare = (data.train.targets == 0) | (torch.arange(400) % 8 == 0)
    kept = rare.nonzero()[:, 0]
    train = data.train.activations
    noisy = Activations(
        train.values[:, kept] + 6 * torch.randn(4, len(kept), 10, generator=torch.Generator().manual_seed(3)),
        train.layers, tuple(train.row_ids[i] for i in kept.tolist()), READING,
    )  # fmt: skip
    skewed = replace(data, train=(noisy, data.train.targets[kept]))
    plain, balanced = fit(skewed), fit(skewed, replace(EXACT, class_weights="balanced"))
    assert cell(balanced, "macro_f1").value > cell(plain, "macro_f1").value + 0.05


def test_fit_probes_takes_plain_arrays_and_splits_them_itself():
    data = task(rows=(300, 100, 100))
    values, targets = data.train.activations.values, data.train.targets
    fitted = fit_probes(values.numpy(), targets.tolist(), bootstrap_samples=0)
    assert fitted.validation_best_layer == PLANTED
    assert cell(fitted, "macro_f1").n == 60
    one = fit_probes(values[PLANTED], targets, layers=["final"], bootstrap_samples=0)
    assert one.validation_best_layer == "final"
    own = fit_probes(
        values, targets, x_validation=data.validation.activations.values, y_validation=data.validation.targets,
        x_test=data.test.activations.values, y_test=data.test.targets, labels=["a", "b"], min_validation_rows=1,
    )  # fmt: skip
    assert cell(own, "macro_f1").n == 100
    assert own.probes.labels == ("a", "b")
    with pytest.raises(ValueError, match="come together"):
        fit_probes(values, targets, x_test=values)


def test_lightning_neither_chats_nor_warns(caplog, recwarn):
    with caplog.at_level(logging.INFO):
        fit(task())
        fit(task(), replace(MINIBATCH, max_epochs=2))
    assert not caplog.records
    assert not recwarn.list
