"""Ridge and linear discriminants from second moments are those of all rows, whether rows are in memory or not."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import Ridge
from torch.nn import functional

from probes.training import (
    LabelledActivations,
    ProbeSettings,
    StreamedRows,
    TaskData,
    TensorRows,
    default_trainer,
    fit_probes,
    fit_task,
    solve_linear,
)
from probes.training.closed_form import solve_closed_form
from probes.training.data_module import Rows
from probes.values import NO_READING, Activations

LAYERS, ROWS, FEATURES, CLASSES = 3, 700, 12, 3
PENALTIES = (0.01, 1.0)


@pytest.fixture(scope="module")
def planted() -> tuple[torch.Tensor, torch.Tensor]:
    """Rows whose class shows in layer 1, a little in layer 2, and not in layer 0; scales of features differ widely."""
    generator = torch.Generator().manual_seed(0)
    classes = torch.randint(CLASSES, (ROWS,), generator=generator)
    x = torch.randn(LAYERS, ROWS, FEATURES, generator=generator)
    for layer, strength in ((1, 3.0), (2, 0.7)):
        x[layer, :, :CLASSES] += strength * functional.one_hot(classes, CLASSES)
    return x * torch.logspace(-2, 2, FEATURES) + 5, classes


def rows_of(values, targets) -> Rows:
    return Rows(values, targets[None], torch.ones(1, len(targets)))


def standardised(x: torch.Tensor) -> torch.Tensor:
    x = x.double()
    return (x - x.mean(1, keepdim=True)) / x.std(1, keepdim=True, correction=0)


def test_ridge_is_scikit_learns_on_columns_of_zeros_and_ones(planted):
    x, classes = planted
    weights, biases, _ = solve_closed_form("ridge", "classification", rows_of(x, classes), PENALTIES, classes=CLASSES)
    for layer, z in enumerate(standardised(x)):
        for number, penalty in enumerate(PENALTIES):
            theirs = Ridge(alpha=penalty * ROWS / 2).fit(z, functional.one_hot(classes).double())
            assert weights[layer, number, 0].numpy() == pytest.approx(theirs.coef_, abs=1e-5)
            assert biases[layer, number, 0].numpy() == pytest.approx(theirs.intercept_, abs=1e-5)


def test_ridge_on_numbers_is_the_optimum_of_the_exact_solver(planted):
    x, classes = planted
    targets = classes.float() - classes.float().mean()
    weights, biases, standardiser = solve_closed_form("ridge", "regression", rows_of(x, targets), PENALTIES, classes=1)
    exact = solve_linear("regression", standardiser(x), targets[None], torch.tensor(PENALTIES), classes=1)
    assert weights.shape == exact.weights.shape
    assert torch.allclose(weights, exact.weights, atol=2e-3)  # the solver stops at its tolerance
    assert torch.allclose(biases, exact.biases, atol=1e-3)


def test_discriminants_are_scikit_learns_where_hardly_shrunk(planted):
    x, classes = planted
    weights, biases, standardiser = solve_closed_form(
        "lda", "classification", rows_of(x, classes), (1e-7,), classes=CLASSES
    )
    for layer, z in enumerate(standardised(x)):
        theirs = LinearDiscriminantAnalysis(solver="lsqr").fit(z, classes).decision_function(z)
        ours = standardiser(x)[layer].double() @ weights[layer, 0, 0].double().mT + biases[layer, 0, 0]
        assert torch.tensor(theirs).log_softmax(1).numpy() == pytest.approx(ours.log_softmax(1).numpy(), abs=1e-4)


@pytest.mark.parametrize("form", ["ridge", "lda"])
def test_rows_on_disk_give_the_probes_of_rows_in_memory(form: str, planted):
    x, classes = planted
    here, there = (
        solve_closed_form(form, "classification", rows_of(values, classes), PENALTIES, classes=CLASSES)
        for values in (x, StreamedRows(TensorRows(x, rows_per_file=50), most_bytes=2000))
    )
    for mine, theirs in zip(here[:2], there[:2], strict=True):
        assert mine.abs().max() > 0.1
        assert torch.allclose(mine, theirs, atol=1e-5)


@pytest.mark.parametrize("form", ["ridge", "lda"])
def test_probes_in_closed_form_find_the_layer_that_knows_and_controls_find_nothing(form: str, planted):
    x, classes = planted
    fit = fit_probes(x, classes, fit=form, name=form, bootstrap_samples=50, permutations=20)
    scores = fit.profile("macro_f1").estimates.values
    control = fit.profile("macro_f1", control="shuffled_labels").estimates.values
    assert fit.validation_best_layer == 1
    assert scores[1] > 0.9
    assert scores[1] - scores[2] > 0.1
    assert abs(scores[0] - 1 / CLASSES) < 0.12
    assert abs(control - 1 / CLASSES).max() < 0.12


def test_labels_of_several_are_predicted_at_their_middle(planted):
    x, classes = planted
    labels = torch.stack([classes == 0, classes > 0], dim=1).float()
    fit = fit_probes(x, labels, fit="ridge", bootstrap_samples=0, permutations=0)
    assert fit.profile("macro_f1").estimates.values[1] > 0.9


def streamed_task(x, classes, *, rows_per_file: int = 40) -> TaskData:
    """The first 400 rows train, from disk; 150 validate and 150 test."""

    def part(name: str, rows: slice, values) -> LabelledActivations:
        targets = classes[rows]
        ids = tuple(f"{name}/{row}" for row in range(len(targets)))
        return LabelledActivations(Activations(values, tuple(range(LAYERS)), ids, NO_READING), targets)

    train = StreamedRows(TensorRows(x[:, :400], rows_per_file), most_bytes=4000)
    return TaskData(
        task="planted",
        kind="classification",
        labels=("a", "b", "c"),
        train=part("train", slice(400), train),
        validation=part("validation", slice(400, 550), x[:, 400:550]),
        test=part("test", slice(550, None), x[:, 550:]),
    )


def in_memory(data: TaskData) -> TaskData:
    values = data.train.values.read()
    activations = replace(data.train.activations, values=values)
    return replace(data, train=LabelledActivations(activations, data.train.targets))


def settings(**options) -> ProbeSettings:
    return ProbeSettings(**({"min_validation_rows": 100, "bootstrap_samples": 20, "permutations": 20} | options))


@pytest.mark.parametrize("form", ["ridge", "lda"])
def test_a_task_on_disk_has_the_scores_of_the_same_task_in_memory(form: str, planted):
    data = streamed_task(*planted)
    streamed = fit_task(data, settings(fit=form), default_trainer, 0)
    memory = fit_task(in_memory(data), settings(fit=form), default_trainer, 0)
    for metric in ("macro_f1", "accuracy", "cross_entropy_bits"):
        ours, theirs = streamed.profile(metric).estimates, memory.profile(metric).estimates
        assert ours.values == pytest.approx(theirs.values, abs=1e-5)
        assert ours.interval == pytest.approx(theirs.interval, abs=1e-5, nan_ok=True)
    assert streamed.probes.penalties == memory.probes.penalties
    with pytest.raises(KeyError):
        streamed.profile("macro_f1", split="train")


def test_logistic_probes_on_disk_are_trained_by_minibatches_close_to_the_optimum(planted):
    """The gap to the exact solver that docs/methods.md states."""
    data = streamed_task(*planted)
    options = {"penalties": (0.01, 0.1), "learning_rate": 0.01, "batch_size": 64, "controls": 0}
    streamed = fit_task(data, settings(**options), default_trainer, 0)
    exact = fit_task(in_memory(data), settings(**options, fit="exact"), default_trainer, 0)
    ours, best = (fit.profile("cross_entropy_bits").estimates.values for fit in (streamed, exact))
    assert best[1] < 0.3
    assert abs(ours - best).max() < 0.05
    scores = [fit.profile("accuracy").estimates.values[1:] for fit in (streamed, exact)]  # layer 0 knows nothing
    assert abs(scores[0] - scores[1]).max() < 0.03


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fit": "exact"}, "`probe.fit=exact` holds all training rows, and those of task 'planted' are streamed"),
        ({"min_validation_rows": 500}, "has 150 validation rows. Streamed training rows are not cross-validated"),
        ({"fit": "ridge", "class_weights": "balanced"}, "counts every row once. Set `probe.class_weights=null`"),
        ({"fit": "ridge", "penalties": (0.0,)}, "gives linear probes at penalties above 0"),
    ],
)
def test_what_streamed_rows_cannot_have_is_named(options, message, planted):
    with pytest.raises(ValueError, match=message):
        fit_task(streamed_task(*planted), settings(**options), default_trainer, 0)


def test_discriminants_refuse_numbers(planted):
    x, classes = planted
    with pytest.raises(ValueError, match="Linear discriminants tell classes apart; the task is a regression"):
        fit_probes(x, classes.float(), fit="lda")


def test_layers_that_do_not_fit_are_solved_in_chunks_with_the_same_result(planted):
    x, classes = planted
    kinds = {
        "x_test": x[:, :100],
        "y_test": classes[:100],
        "x_validation": x[:, 100:200],
        "y_validation": classes[100:200],
    }
    options = {"fit": "ridge", "penalties": PENALTIES, "min_validation_rows": 1, "controls": 0, "bootstrap_samples": 0}
    whole, chunked = (
        fit_probes(x[:, 200:], classes[200:], **kinds, **options, max_bank_bytes=limit) for limit in (2**31, 1)
    )
    values = [[result.value for result in fit.results] for fit in (whole, chunked)]
    assert values[0] == pytest.approx(values[1], abs=1e-6, nan_ok=True)
