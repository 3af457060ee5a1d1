"""The exact solver against scikit-learn, and its certificate against the true gap."""

from __future__ import annotations

import pytest
import torch
from sklearn.linear_model import LogisticRegression, Ridge
from torch.nn import functional

from probes.training import solve_linear
from probes.training.bank.minibatch_module import class_weights
from probes.training.linear_solver import minimise

PENALTIES = torch.tensor([1e-3, 1e-1, 1.0], dtype=torch.float64)


def problem(layers, rows, features, classes, *, seed=0):
    """Standardised rows with a decaying spectrum, classes from noisy linear scores, and these scores."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(features, features, generator=generator) * torch.arange(1, features + 1) ** -0.5
    x = torch.randn(layers, rows, features, generator=generator) @ mix.T
    x = (x - x.mean(1, keepdim=True)) / x.std(1, correction=0, keepdim=True)
    truth = x[0] @ torch.randn(features, classes, generator=generator) / features**0.5
    noisy = truth + torch.randn(rows, classes, generator=generator)
    return x, noisy.argmax(1), noisy


def objective(x, y, weights, biases, penalty, row_weights=None):
    losses = functional.cross_entropy(x.double() @ weights.double().T + biases.double(), y, reduction="none")
    losses = losses if row_weights is None else losses * row_weights
    return float(losses.mean() + penalty / 2 * weights.double().square().sum())


def weights_and_biases(model):
    """Of a scikit-learn model; its single logit for two classes becomes two of opposite sign."""
    weights, biases = torch.as_tensor(model.coef_), torch.as_tensor(model.intercept_)
    if len(weights) > 1:
        return weights, biases
    return torch.cat([-weights, weights]) / 2, torch.cat([-biases, biases]) / 2


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize(("rows", "features"), [(300, 20), (60, 90)])
@pytest.mark.parametrize("balanced", [False, True])
def test_objective_and_accuracy_equal_scikit_learns(classes, rows, features, balanced):
    every_x, every_y, _ = problem(2, rows + 2000, features, classes)
    every_y[: rows // 3] = 0
    x, y, new_x, new_y = every_x[:, :rows], every_y[:rows], every_x[:, rows:], every_y[rows:]
    row_weights = class_weights(y, classes)[y] if balanced else None
    solution = solve_linear(
        "classification", x, y[None], PENALTIES, classes=classes,
        row_weights=None if row_weights is None else row_weights[None],
    )  # fmt: skip
    for layer in range(2):
        for p, penalty in enumerate(PENALTIES.tolist()):
            model = LogisticRegression(
                C=(2 if classes == 2 else 1) / (penalty * rows), tol=1e-8, max_iter=5000,
                class_weight="balanced" if balanced else None,
            ).fit(x[layer].double().numpy(), y)  # fmt: skip
            weights, biases = solution.weights[layer, p, 0], solution.biases[layer, p, 0]
            ours = objective(x[layer], y, weights, biases, penalty, row_weights)
            theirs = objective(x[layer], y, *weights_and_biases(model), penalty, row_weights)
            assert ours <= theirs * (1 + 1e-4)
            correct = (new_x[layer] @ weights.T + biases).argmax(1) == new_y
            theirs_correct = torch.as_tensor(model.predict(new_x[layer].numpy())) == new_y
            assert float(correct.float().mean()) == pytest.approx(float(theirs_correct.float().mean()), abs=0.005)


@pytest.mark.parametrize(("rows", "features"), [(300, 20), (60, 90)])
def test_regression_predicts_as_scikit_learns_ridge(rows, features):
    x, _, noisy = problem(2, rows, features, 1)
    y = noisy[:, 0] + 3
    solution = solve_linear("regression", x, y[None], PENALTIES, classes=1)
    for layer in range(2):
        for p, penalty in enumerate(PENALTIES.tolist()):
            model = Ridge(alpha=penalty * rows / 2).fit(x[layer].double().numpy(), y.double().numpy())
            ours = x[layer] @ solution.weights[layer, p, 0, 0] + solution.biases[layer, p, 0, 0]
            assert torch.allclose(ours.double(), torch.as_tensor(model.predict(x[layer].double().numpy())), atol=2e-2)
            assert float(solution.gaps[layer, p, 0]) <= 2e-4


def test_each_label_of_a_multilabel_task_has_the_weights_of_scikit_learns_logistic_regression():
    x, _, noisy = problem(1, 300, 10, 3)
    y = (noisy > 0.3).float()
    solution = solve_linear("multilabel", x, y[None], PENALTIES[1:2], classes=3, tolerance=1e-7)
    for label in range(3):
        model = LogisticRegression(C=1 / (0.1 * 300), tol=1e-8, max_iter=5000).fit(x[0].double().numpy(), y[:, label])
        assert torch.allclose(solution.weights[0, 0, 0, label].double(), torch.as_tensor(model.coef_[0]), atol=1e-3)
        assert float(solution.biases[0, 0, 0, label]) == pytest.approx(model.intercept_[0], abs=1e-3)


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("max_iterations", [1, 3, 500])
def test_the_certificate_bounds_the_distance_to_the_optimum(classes, max_iterations):
    x, y, _ = problem(2, 200, 30, classes)
    found = solve_linear("classification", x, y[None], PENALTIES, classes=classes, max_iterations=max_iterations)
    best = solve_linear("classification", x, y[None], PENALTIES, classes=classes, tolerance=1e-9)
    assert float(best.gaps.max()) <= 1e-9
    for layer in range(2):
        for p, penalty in enumerate(PENALTIES.tolist()):
            ours, optimum = (
                objective(x[layer], y, s.weights[layer, p, 0], s.biases[layer, p, 0], penalty) for s in (found, best)
            )
            gap = float(found.gaps[layer, p, 0])
            assert -1e-7 <= ours / optimum - 1 <= gap + 1e-7
            assert gap <= 2e-4 or max_iterations < 500


def test_a_solver_that_stops_early_certifies_a_gap_beyond_the_tolerance():
    x, y, _ = problem(1, 200, 30, 3)
    penalties = torch.tensor([1e-4])
    stopped = solve_linear("classification", x, y[None], penalties, classes=3, max_iterations=2)
    finished = solve_linear("classification", x, y[None], penalties, classes=3)
    assert float(stopped.gaps) > 1e-3 > 2e-4 >= float(finished.gaps)


def test_a_tolerance_below_float32_rounding_is_reached_in_float64():
    x, y, _ = problem(1, 200, 30, 2)
    solution = solve_linear("classification", x, y[None], PENALTIES, classes=2, tolerance=1e-12)
    # Weights are stored in float32, so the gap is limited by the rounding of the result, not of the iterations.
    assert float(solution.gaps.max()) < 1e-9


def test_biases_are_not_penalised():
    x, y, _ = problem(1, 200, 5, 2)
    y[20:] = 1
    solution = solve_linear("classification", x, y[None], torch.tensor([1e6]), classes=2)
    probabilities = solution.biases[0, 0, 0].softmax(0)
    assert float(probabilities[1]) == pytest.approx(float(y.float().mean()), abs=1e-4)


def test_a_layers_probe_does_not_depend_on_the_layers_solved_with_it():
    x, y, _ = problem(31, 120, 16, 3)
    targets = torch.stack([y, y.flip(0)])
    together = solve_linear("classification", x, targets, PENALTIES, classes=3)
    for layer in (0, 17, 30):
        alone = solve_linear("classification", x[layer : layer + 1], targets, PENALTIES, classes=3)
        assert torch.allclose(alone.weights[0], together.weights[layer], atol=1e-6)
        assert torch.allclose(alone.biases[0], together.biases[layer], atol=1e-6)


def test_a_probe_does_not_depend_on_the_controls_solved_with_it():
    x, y, _ = problem(2, 120, 16, 3)
    with_control = solve_linear("classification", x, torch.stack([y, y.flip(0)]), PENALTIES, classes=3)
    without = solve_linear("classification", x, y[None], PENALTIES, classes=3)
    assert torch.allclose(with_control.weights[:, :, 0], without.weights[:, :, 0], atol=1e-5)


def test_a_probe_does_not_depend_on_the_penalties_solved_with_it():
    x, y, _ = problem(2, 120, 16, 3)
    together = solve_linear("classification", x, y[None], PENALTIES, classes=3)
    for number, penalty in enumerate(PENALTIES):
        alone = solve_linear("classification", x, y[None], penalty[None], classes=3)
        assert torch.allclose(alone.weights[:, 0], together.weights[:, number], atol=1e-5)


def test_a_problem_that_stalls_in_float32_is_finished_in_float64(monkeypatch):
    x, y, _ = problem(2, 120, 16, 3)
    monkeypatch.setattr(minimise, "STALL_ITERATIONS", 1)  # the gap does not fall at every step: float32 stops early
    solution = solve_linear("classification", x, y[None], PENALTIES, classes=3, tolerance=1e-6)
    assert float(solution.gaps.max()) <= 1e-6


def test_weighted_moments_save_iterations_where_rows_differ_much_in_length(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    lengths = torch.exp(1.5 * torch.randn(1, 150, 1, generator=generator))
    x = lengths * torch.randn(1, 150, 200, generator=generator) * torch.arange(1, 201) ** -0.5
    x = (x - x.mean(1, keepdim=True)) / x.std(1, correction=0, keepdim=True)
    y = torch.cat([torch.full((5,), 5), torch.randint(0, 5, (145,), generator=generator)])
    iterations = []
    for first in (minimise.WEIGHTED_MOMENTS_FROM, 1 << 20):
        monkeypatch.setattr(minimise, "WEIGHTED_MOMENTS_FROM", first)
        solution = solve_linear("classification", x, y[None], torch.tensor([1e-3]), classes=6)
        assert float(solution.gaps.max()) <= 2e-4
        iterations.append(solution.iterations)
    assert iterations[0] < 0.8 * iterations[1]


@pytest.mark.parametrize(("rows", "features"), [(300, 200), (80, 200)])
def test_nearly_collinear_features_are_solved_at_a_tiny_penalty(rows, features):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, rows, 1, generator=generator) + 1e-4 * torch.randn(1, rows, features, generator=generator)
    x = (x - x.mean(1, keepdim=True)) / x.std(1, correction=0, keepdim=True)
    y = (x[0, :, 0] + torch.randn(rows, generator=generator) > 0).long()
    solution = solve_linear("classification", x, y[None], torch.tensor([1e-6]), classes=2)
    assert float(solution.gaps) <= 2e-4


@pytest.mark.parametrize("seed", range(3))
def test_rows_that_repeat_only_two_vectors_are_solved(seed):
    """The last token's embedding takes two values if every prompt ends in one of two tokens."""
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.randn(2, 576, generator=generator).bfloat16().float()
    kind = (torch.rand(400, generator=generator) < 0.1).long()
    x, y = vectors[kind][None], (kind + (torch.rand(400, generator=generator) < 0.3)) % 2
    x = (x - x.mean(1, keepdim=True)) / x.std(1, correction=0, keepdim=True).clamp_min(1e-6)
    solution = solve_linear("classification", x, y[None], torch.tensor([1.0, 1e-3]), classes=2)
    assert float(solution.gaps.max()) <= 2e-4
    predicted = (x[0] @ solution.weights[0, 1, 0].T + solution.biases[0, 1, 0]).argmax(1)
    majority = [int(y[kind == k].float().mean().round()) for k in (0, 1)]
    assert predicted.tolist() == [majority[k] for k in kind.tolist()]


def test_repeated_and_constant_features_leave_the_predictions_as_they_are():
    x, y, _ = problem(1, 100, 6, 2)
    twice = torch.cat([x, x, torch.zeros(1, 100, 2)], dim=2)
    once = solve_linear("classification", x, y[None], torch.tensor([0.2]), classes=2, tolerance=1e-8)
    doubled = solve_linear("classification", twice, y[None], torch.tensor([0.4]), classes=2, tolerance=1e-8)
    # Equal features share a weight w as w/2 each, which halves the norm: twice the penalty gives the same predictions.
    first, second = (x @ once.weights[0, 0, 0].T)[0], (twice @ doubled.weights[0, 0, 0].T)[0]
    assert torch.allclose(first, second, atol=1e-4)
