"""Probes refitted on resampled training sets: how much a score would differ with other training rows.

The interval of a score that only resamples test rows holds the trained probe fixed. With few training rows another
training set would give another probe, so that the variance over training sets has to be added. Halves of the training
rows, drawn without replacement, estimate it: given all n rows, a statistic of h of them varies in proportion to
(1/h)(1 − h/n), which at h = n/2 is 1/n, as for n rows drawn anew (Politis, Romano and Wolf 1999, "Subsampling"). Every
refitted probe keeps the penalty that was chosen with all rows, and is scored on the same test rows. The score itself
remains that of the probe trained on all rows.

The variance of the score over sets, less what is due to the choice of test rows, is then added to the variance over
test rows (`training_set_errors`, `probes.metrics.widened`).
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from probes.seeds import derive_seed
from probes.threads import map_on_cores
from probes.training.bank.probe_module import row_batched_logits
from probes.training.data_module import Rows
from probes.training.linear_solver.solve import solve_linear
from probes.training.ragged import RowValues, layers_of, vectors_of
from probes.training.selection import Selection, refit_rows
from probes.training.train_bank import BankSpec, train_bank

_ROWS_SOLVED_DIRECTLY = 2000
"""Training rows up to which the solver is called without bank and trainer, whose device matters only with more."""
_LAYERS_SOLVED_TOGETHER = 2
"""Layers that one core solves together: few, so that their problems fit in its cache and no core is idle at the end."""


def refitted_logits(
    train: Rows, validation: Rows, test_values: RowValues, *, selection: Selection, spec: BankSpec, sets: int
) -> Tensor:
    """Refit the chosen probe of every layer, and its controls, on halves of the training rows; apply them to test rows.

    A control keeps its shuffled labels and is refitted on the same sets as its probe. The sets depend on the seed and
    the number of rows alone, so that the refits of two models that are probed on the same rows are paired by index. A
    probe trained by minibatches starts from new weights in each set.

    Args:
        train: Training rows.
        validation: Validation rows, which decide when minibatch training stops.
        test_values: Raw activations of the rows to predict, shape `(layers, rows, features)`, or of their tokens.
        selection: The chosen probes.
        spec: How they were trained.
        sets: Number of training sets.

    Returns:
        Shape `(layers, 1 + controls, sets, rows, classes)`.
    """
    train, validation = refit_rows(train, validation, spec)
    in_half = half_weights(
        len(train),
        sets,
        seed=derive_seed(spec.seed, "training sets"),
        sentences=train.sentences,
        groups=train.groups,
    )
    refits = Rows(train.values, *_of_every_set(train, sets))
    # replicas (1 + controls, sets), the set varying fastest
    refits = replace(refits, weights=refits.weights * in_half.repeat(len(train.targets), 1))
    if spec.exact and len(train) <= _ROWS_SOLVED_DIRECTLY and isinstance(test_values, Tensor):
        by_layer = _solved_logits(refits, test_values, selection, spec)
    else:
        by_layer = _trained_logits(
            refits, Rows(validation.values, *_of_every_set(validation, sets)), test_values, selection, spec
        )
    return by_layer.unflatten(1, (len(train.targets), sets))


def _solved_logits(refits: Rows, test_values: Tensor, selection: Selection, spec: BankSpec) -> Tensor:
    """Logits `(layers, replicas, rows, classes)` of linear probes, from the solver alone.

    Bank and trainer would serve nothing here: the refits are neither kept nor trained further, and to build and move
    thousands of modules takes a quarter of the time of solving them. Layers are solved a few at a time, the smallest
    penalties, which take longest, first, so that every core has work until the end.
    """
    trained, settings = selection.trained, spec.settings
    targets = refits.targets
    if spec.kind == "regression":
        targets = (targets - trained.target_mean) / trained.target_deviation

    def solve(layers: Tensor) -> Tensor:
        standardiser = trained.standardiser[layers]
        solution = solve_linear(
            spec.kind,
            standardiser(vectors_of(refits.values)[layers]),
            targets,
            torch.tensor([settings.penalties[int(selection.chosen[layers[0]])]], dtype=torch.float64),
            classes=spec.num_classes,
            row_weights=refits.weights,
            tolerance=settings.tolerance,
            max_iterations=settings.max_iterations,
        )
        weights, biases = solution.weights[:, 0], solution.biases[:, 0]  # (layers, replicas, classes, features)
        rows = standardiser(test_values[layers])
        return (weights.flatten(1, 2) @ rows.mT).unflatten(1, weights.shape[1:3]).mT + biases[:, :, None]

    of_one_penalty = sorted(
        _layers_of_one_penalty(selection), key=lambda layers: selection.penalties(settings)[layers[0]]
    )
    some_layers = [some for layers in of_one_penalty for some in layers.split(_LAYERS_SOLVED_TOGETHER)]
    logits = torch.cat(map_on_cores(solve, some_layers, test_values.device))
    return logits[torch.cat(some_layers).argsort()] * trained.target_deviation + trained.target_mean


def _trained_logits(
    refits: Rows, stopping: Rows, test_values: RowValues, selection: Selection, spec: BankSpec
) -> Tensor:
    """Logits `(layers, replicas, rows, classes)` of any probes, from a bank for the layers of each penalty."""
    logits: dict[int, Tensor] = {}
    for layers in _layers_of_one_penalty(selection):
        chosen = int(selection.chosen[layers[0]])
        bank_spec = replace(
            spec,
            layers=tuple(spec.layers[i] for i in layers.tolist()),
            settings=replace(spec.settings, penalties=(spec.settings.penalties[chosen],)),
        )
        trained = train_bank(refits.of_layers(layers), stopping.of_layers(layers), bank_spec)
        outputs = row_batched_logits(trained.bank, trained.standardiser, layers_of(test_values, layers))
        outputs = outputs * trained.target_deviation + trained.target_mean
        logits |= zip(layers.tolist(), outputs, strict=True)
    return torch.stack([logits[layer] for layer in range(len(spec.layers))])


def _layers_of_one_penalty(selection: Selection) -> list[Tensor]:
    """Layers for which the same penalty was chosen, int64 `(layers,)` for each penalty."""
    return [(selection.chosen == chosen).nonzero()[:, 0] for chosen in selection.chosen.unique()]


def half_weights(
    rows: int, sets: int, *, seed: int, sentences: Tensor | None = None, groups: Tensor | None = None
) -> Tensor:
    """Weights, mean 1 over rows, that keep a half of the rows in each set and drop the others, shape `(sets, rows)`.

    With `sentences`, the number of each row's sentence, a half of the sentences is kept, with all of their rows; with
    `groups`, as in `TaskData.groups`, a half of these, if there are several and one has several rows.
    """
    if groups is not None and (sentences is not None or 1 < len(groups.unique()) < rows):
        sentences = groups
    if sentences is not None:
        number = sentences.unique(return_inverse=True)[1]
        weights = half_weights(int(number.max()) + 1, sets, seed=seed)[:, number]
        return weights / weights.mean(1, keepdim=True)
    generator = torch.Generator().manual_seed(seed)
    weights, half = torch.zeros(sets, rows), rows // 2
    for of_set in weights:
        of_set[torch.randperm(rows, generator=generator)[:half]] = rows / half
    return weights


def _of_every_set(rows: Rows, sets: int) -> tuple[Tensor, Tensor]:
    """Targets and weights of every control and set, the set varying fastest."""
    return rows.targets.repeat_interleave(sets, 0), rows.weights.repeat_interleave(sets, 0)


def training_set_errors(refits: Tensor) -> Tensor:
    """Errors of a score from its values for probes refitted on halves of the training rows.

    The score of training set s on test rows T is μ + a(T) + b(s) + c(s, T). On one T, the sets' scores vary by b and by
    c, which rows which probe gets right. The interval over test rows has the variance of a + c already, so that only
    that of b must be added; adding both would count c twice. The variance of c is that of a set's deviation from the
    mean of all sets, over resamples of the test rows. Deviations of the sets are shrunk by the share that it leaves.

    Args:
        refits: float64, shape `(1 + samples, sets, layers)`, as in `Scores.refits`.

    Returns:
        float64, shape `(sets, layers)`, scaled so that squares sum to the variance of b; all 0 at a layer where the
        sets differ no more than c makes them. Sets in which the score is undefined at some layer are left out.

    Source:
        Owen 2007, "The pigeonhole bootstrap": resampling rows and columns independently counts interactions twice.
    """
    refits = refits[:, refits[0].isfinite().all(1)]
    values, draws = refits[0], refits[1:]
    draws = draws[draws.isfinite().flatten(1).all(1)]
    sets = max(len(values), 2)
    deviations = values - values.mean(0)
    variance = deviations.square().sum(0) / (sets - 1)
    # a deviation from the mean of all sets has (sets − 1) / sets of the variance of c
    of_rows = (draws - draws.mean(1, keepdim=True)).var(0).mean(0) * sets / (sets - 1)
    remaining = (1 - of_rows / variance.clamp_min(torch.finfo(variance.dtype).tiny)).clamp_min(0)
    return deviations * (remaining / (sets - 1)).sqrt()
