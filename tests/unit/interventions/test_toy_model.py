"""A model that reads one planted direction and ignores another: every way of intervening tells them apart."""

from __future__ import annotations

from functools import cache, partial

import numpy as np
import pytest
import torch
from toy_language_model import ANSWERS, FEATURES, LAYERS, toy_language_model, toy_task

from probes.analysis.effects import class_balanced_mean, log_odds_of_right
from probes.answers import label_questions
from probes.interventions import (
    Streams,
    erasers_from_layer_on,
    erasing,
    inlp,
    leace,
    mean_difference,
    random_subspace,
)

LM = toy_language_model
ERASERS = {"leace": leace, "inlp": partial(inlp, iterations=14), "mean_difference": mean_difference}


def labels_of(task, split: str) -> torch.Tensor:
    return torch.tensor(task.splits[split].labels)


@cache
def streams_of(which: int, split: str, layer: int) -> Streams:
    rows = toy_task(which).splits[split]
    return Streams.at_input(LM(), label_questions(LM().backbone, rows.prompts, ANSWERS)).carried(layer)


def gap(log_probs: torch.Tensor, labels: torch.Tensor) -> float:
    """Class-balanced mean of the log-odds of the right answer."""
    return class_balanced_mean(log_odds_of_right(log_probs.numpy(), labels.numpy()), labels.numpy()).item()


@cache
def whole_gap() -> float:
    """The logit gap of the planted direction that the model reads."""
    return gap(streams_of(0, "test", 0).log_probs(), labels_of(toy_task(0), "test"))


def effect(which: int, edits_of, layer: int) -> float:
    """What an edit takes from the logit gap of the direction that is read, as a share of it."""
    after = streams_of(0, "test", layer).log_probs(edits_of)
    return 1 - gap(after, labels_of(toy_task(0), "test")) / whole_gap()


def last_tokens(which: int, split: str, layer: int) -> torch.Tensor:
    """Hidden states of the rows' last tokens, in the order of the rows."""
    streams = streams_of(which, split, layer)
    found = torch.empty(streams.questions.rows, FEATURES)
    for batch, hidden in zip(streams.questions.batches, streams.hidden, strict=True):
        found[batch.rows] = hidden[torch.arange(len(hidden)), batch.prompt_mask.sum(1) - 1]
    return found


@pytest.mark.parametrize("which", [0, 1])
def test_the_toy_model_answers_by_the_first_direction_and_both_are_decodable(which: int):
    train, test = (labels_of(toy_task(which), split) for split in ("train", "test"))
    right = streams_of(which, "test", 0).log_probs().argmax(1).eq(test).double().mean().item()
    assert right == pytest.approx(0.5, abs=0.1) if which else right > 0.98
    for layer in range(LAYERS + 1):
        rows = [last_tokens(which, split, layer) for split in ("train", "test")]
        assert _least_squares_accuracy(rows[0], train, rows[1], test) > 0.95


def _least_squares_accuracy(train, y_train, test, y_test) -> float:
    design, other = (torch.cat([x.double(), torch.ones(len(x), 1).double()], 1) for x in (train, test))
    weights = torch.linalg.lstsq(design, (2 * y_train - 1).double()[:, None], driver="gelsd").solution
    return ((other @ weights)[:, 0] > 0).eq(y_test.bool()).double().mean().item()


@pytest.mark.parametrize("name", ERASERS)
@pytest.mark.parametrize("layer", range(LAYERS + 1))
def test_erasing_the_direction_that_is_read_takes_the_answer_and_the_other_leaves_it(name: str, layer: int):
    for which in (0, 1):
        moments = streams_of(which, "train", layer).moments(labels_of(toy_task(which), "train"), 2, "last")
        found = effect(which, erasing({layer: {"last": ERASERS[name](moments["last"])}}, "last"), layer)
        assert found > 0.9 if which == 0 else abs(found) < 0.05


def test_a_random_subspace_leaves_the_answer():
    moments = streams_of(0, "train", 1).moments(labels_of(toy_task(0), "train"), 2, "last")["last"]
    found = [effect(0, erasing({1: {"last": random_subspace(moments, 1, seed=s)}}, "last"), 1) for s in range(6)]
    assert abs(np.mean(found)) < 0.2


@pytest.mark.parametrize("positions", ["last", "all"])
@pytest.mark.parametrize("layer", [0, 2])
def test_erasing_from_a_layer_on_leaves_nothing_linear_at_any_later_layer(layer: int, positions: str):
    labels = labels_of(toy_task(0), "train")
    erasers = erasers_from_layer_on(streams_of(0, "train", layer), leace, labels, 2, positions)
    assert list(erasers) == list(range(layer, LAYERS + 1))
    edited = streams_of(0, "train", layer).carried(LAYERS, erasing(erasers, positions))
    for moments in edited.moments(labels, 2, positions).values():
        assert moments.cross_covariance.abs().max() < 1e-5
    assert effect(0, erasing(erasers, positions), layer) > 0.9
    other = labels_of(toy_task(1), "train")
    ignored = erasers_from_layer_on(streams_of(1, "train", layer), leace, other, 2, positions)
    assert abs(effect(1, erasing(ignored, positions), layer)) < 0.05
