"""Linear probes of all layers solved together, against loops of scikit-learn fits, at one and at five penalties."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, replace
from itertools import product

import torch
from claim import Claim, against_slow, show
from device import argument_parser, chosen, counted_flop, reached
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from torch import Tensor
from torch.nn import functional

from probes.training import LinearSolution, ProbeSettings, solve_linear

LAYERS, ROWS, NEW_ROWS, FEATURES = 31, 2000, 1000, 576
CLASSES = (2, 2, 3, 4, 6, 10)
PEER_LAYERS = (8, 22)
SIZES = (
    f"{LAYERS} layers, {len(CLASSES)} tasks of 2 to 10 classes, {ROWS} rows, {FEATURES} features; "
    f"the peer fitted {len(PEER_LAYERS)} of {LAYERS} layers, scaled"
)


@dataclass(frozen=True)
class Task:
    """A classification task with activations of all layers.

    Attributes:
        classes: Number of classes.
        x: Training rows, standardised, shape `(layers, rows, features)`.
        y: Their labels, shape `(rows,)`.
        new_x: Test rows, standardised by the training rows, shape `(layers, new rows, features)`.
        new_y: Their labels.
    """

    classes: int
    x: Tensor
    y: Tensor
    new_x: Tensor
    new_y: Tensor


def make_task(seed: int, classes: int, device: torch.device, *, rows: int = ROWS, new_rows: int = NEW_ROWS) -> Task:
    """Rows with a decaying spectrum, as activations have, and labels that the middle layer represents best."""
    generator = torch.Generator().manual_seed(seed)
    mix = (1 + torch.arange(FEATURES)).pow(-0.5)[:, None] * torch.linalg.qr(
        torch.randn(FEATURES, FEATURES, generator=generator)
    ).Q
    base = torch.randn(rows + new_rows, FEATURES, generator=generator)
    x = torch.empty(LAYERS, rows + new_rows, FEATURES)
    for layer in range(LAYERS):
        signal = math.sin(math.pi * layer / (LAYERS - 1))
        x[layer] = (signal * base + math.sqrt(1 - signal**2) * torch.randn(base.shape, generator=generator)) @ mix
        x[layer] = (x[layer] - x[layer, :rows].mean(0)) / x[layer, :rows].std(0, correction=0)
    scores = base @ mix @ torch.randn(FEATURES, classes, generator=generator)
    y = (scores / scores.std() + torch.randn(scores.shape, generator=generator) / 2).argmax(1)
    x, y = x.to(device), y.to(device)
    return Task(classes, x[:, :rows].contiguous(), y[:rows], x[:, rows:].contiguous(), y[rows:])


def solve_all(tasks: list[Task], penalties: tuple[float, ...]) -> list[LinearSolution]:
    """One solution per task, of all layers and penalties."""
    return [
        solve_linear("classification", task.x, task.y[None], torch.tensor(penalties), classes=task.classes)
        for task in tasks
    ]


def fit_scikit_learn(tasks: list[Task], penalties: tuple[float, ...]) -> list[list[LogisticRegression]]:
    """Per task, one model for each penalty and each of `PEER_LAYERS`, with scikit-learn's default tolerance."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return [
            [
                LogisticRegression(C=(2 if task.classes == 2 else 1) / (penalty * ROWS)).fit(
                    task.x[layer].numpy(force=True), task.y.numpy(force=True)
                )
                for penalty, layer in product(penalties, PEER_LAYERS)
            ]
            for task in tasks
        ]


def as_solution(models: list[LogisticRegression]) -> tuple[Tensor, Tensor]:
    """Weights `(layers, classes, features)` and biases `(layers, classes)` of models, one per layer, at one penalty.

    Scikit-learn has a single logit for two classes; here it becomes two of opposite sign.
    """
    weights = torch.stack([torch.as_tensor(model.coef_) for model in models])
    biases = torch.stack([torch.as_tensor(model.intercept_) for model in models])
    if weights.shape[1] == 1:
        return torch.cat([-weights, weights], 1) / 2, torch.cat([-biases, biases], 1) / 2
    return weights, biases


def flop(tasks: list[Task], penalties: tuple[float, ...]) -> float:
    """Operations in the matrix products of `solve_all`, counted at `PEER_LAYERS` and scaled; without eigenvectors."""
    few_layers = [replace(task, x=task.x[list(PEER_LAYERS)]) for task in tasks]
    return counted_flop(lambda: solve_all(few_layers, penalties)) * LAYERS / len(PEER_LAYERS)


def objectives(task: Task, weights: Tensor, biases: Tensor, penalty: float) -> Tensor:
    """Objective at each of `PEER_LAYERS`, in float64, shape `(layers,)`."""
    logits = (
        task.x[list(PEER_LAYERS)].double() @ weights.to(task.x.device).double().mT
        + biases.to(task.x.device).double()[:, None]
    )
    losses = functional.cross_entropy(logits.flatten(0, 1), task.y.repeat(len(logits)), reduction="none")
    return losses.view(len(logits), -1).mean(1) + penalty / 2 * weights.to(task.x.device).double().square().sum((1, 2))


def accuracy(task: Task, weights: Tensor, biases: Tensor) -> float:
    """Share of new rows classified correctly, over `PEER_LAYERS`."""
    logits = task.new_x[list(PEER_LAYERS)] @ weights.to(task.x).mT + biases.to(task.x)[:, None]
    return float((logits.argmax(-1) == task.new_y).float().mean())


def quality(tasks: list[Task], penalty: float) -> list[Claim]:
    """Claims about the largest gap to the float64 optimum over tasks and layers, and about accuracy on new rows."""
    gaps, accuracies = [], []
    for task, models, solution in zip(
        tasks, fit_scikit_learn(tasks, (penalty,)), solve_all(tasks, (penalty,)), strict=True
    ):
        layers = list(PEER_LAYERS)
        best = solve_linear(
            "classification", task.x[layers], task.y[None], torch.tensor([penalty]), classes=task.classes,
            tolerance=1e-9,
        )  # fmt: skip
        optimum = objectives(task, best.weights[:, 0, 0], best.biases[:, 0, 0], penalty)
        both = (solution.weights[layers, 0, 0], solution.biases[layers, 0, 0]), as_solution(models)
        gaps.append([float((objectives(task, *probes, penalty) / optimum - 1).max()) for probes in both])
        accuracies.append([100 * accuracy(task, *probes) for probes in both])
    our_gap, their_gap = torch.tensor(gaps).amax(0).tolist()
    our_accuracy, their_accuracy = torch.tensor(accuracies).mean(0).tolist()
    return [
        Claim("gap to the optimum", "scikit-learn's", our_gap, their_gap, 1.0, SIZES, "of the objective", at_most=True),
        Claim(
            "difference in accuracy", "0.3 points", abs(our_accuracy - their_accuracy), 0.3, 1.0,
            f"{our_accuracy:.2f} % and {their_accuracy:.2f} % on {NEW_ROWS} new rows a task", "points", at_most=True,
        ),
    ]  # fmt: skip


def main(device: str = "auto") -> list[Claim]:
    place = chosen(device)
    tasks = [make_task(seed, classes, place) for seed, classes in enumerate(CLASSES)]
    claims = []
    for penalties, target in (((1e-3,), 25.0), (ProbeSettings().penalties, 40.0)):
        seconds, slow = against_slow(
            lambda p=penalties: solve_all(tasks, p), lambda p=penalties: fit_scikit_learn(tasks, p)
        )
        slow *= LAYERS / len(PEER_LAYERS)
        work = "linear probes of all layers, " + ("one penalty" if len(penalties) == 1 else "five penalties")
        note = f"{SIZES}; {reached(flop(tasks, penalties), seconds, place, torch.float32)}, axes not counted"
        claims.append(Claim(work, "scikit-learn loop (lbfgs)", seconds, slow, target, note))
    return claims + quality(tasks, 1e-3)


if __name__ == "__main__":
    show(main(**vars(argument_parser(__doc__).parse_args())))
