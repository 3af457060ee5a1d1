"""Entities are counted as wholes, as the CoNLL script and seqeval do."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score

from probes.metrics import permuted_orders
from probes.metrics.sequences import count_entities, is_bio, matched_entity_scores, matched_tag_f1

LABELS = ("B-x", "B-y", "I-x", "I-y", "O")


def entities_of(tags: list[str]) -> set[tuple[str, int, int]]:
    """Type, first and last word of each entity of one sentence, word by word."""
    found: set[tuple[str, int, int]] = set()
    start, kind = None, ""
    for place, tag in enumerate([*tags, "O"]):
        begins = tag != "O" and (tag[0] == "B" or start is None or tag[2:] != kind)
        if start is not None and (begins or tag == "O"):
            found.add((kind, start, place - 1))
            start = None
        if begins:
            start, kind = place, tag[2:]
    return found


def test_counts_equal_those_of_a_loop_over_the_words_of_each_sentence():
    rng = random.Random(0)
    lengths = [rng.randint(1, 9) for _ in range(40)]
    sentences = np.repeat(np.arange(40), lengths)
    draw = lambda: np.array([rng.choice((0, 1, 2, 3, 4, 4)) for _ in sentences])  # noqa: E731
    targets, layers = draw(), np.stack([draw() for _ in range(3)])
    layers[2] = np.where(np.array([rng.random() < 0.8 for _ in sentences]), targets, layers[2])
    counts = count_entities(layers, targets, sentences, LABELS)
    for sentence in range(40):
        words = sentences == sentence
        true = entities_of([LABELS[tag] for tag in targets[words]])
        assert counts.true[sentence] == len(true)
        for layer in range(3):
            predicted = entities_of([LABELS[tag] for tag in layers[layer][words]])
            assert counts.predicted[layer, sentence] == len(predicted)
            assert counts.right[layer, sentence] == len(predicted & true)
    assert counts.right[2].sum() > counts.right[0].sum() > 0


def test_scores_are_those_of_all_entities_together_and_follow_the_weights_of_sentences():
    tags = np.array([[0, 2, 4, 1]])
    counts = count_entities(tags, np.array([0, 2, 1, 4]), np.array([0, 0, 1, 1]), LABELS)
    scores = counts.scores(np.array([[1.0, 1.0], [2.0, 0.0], [0.0, 1.0]]))
    assert scores["entity_f1"][:, 0].tolist() == [0.5, 1.0, 0.0]
    assert scores["entity_precision"][:, 0].tolist() == [0.5, 1.0, 0.0]
    assert scores["entity_recall"][:, 0].tolist() == [0.5, 1.0, 0.0]


def test_scores_without_entities_are_unknown():
    outside = np.full((1, 3), 4)
    scores = count_entities(outside, outside[0], np.zeros(3), LABELS).scores(np.ones((1, 1)))
    assert all(np.isnan(value).all() for value in scores.values())


def test_an_entity_does_not_go_on_in_the_next_sentence():
    counts = count_entities(np.array([[0, 2]]), np.array([0, 2]), np.array([0, 1]), LABELS)
    assert counts.true.tolist() == [1.0, 1.0]


@pytest.mark.parametrize(("labels", "expected"), [(LABELS, True), (("NOUN", "O"), False), (("O",), False)])
def test_tags_of_entities_are_told_by_their_names(labels, expected):
    assert is_bio(labels) is expected


def matched(*, sentences: int = 30, draws: int = 5) -> tuple[np.ndarray, ...]:
    """Predictions of two layers, targets, numbers of sentences, and orders in which sentences are matched."""
    rng = np.random.default_rng(0)
    number = np.repeat(np.arange(sentences), rng.integers(1, 9, sentences))
    targets = rng.integers(0, 5, len(number))
    predicted = np.stack([rng.integers(0, 5, len(number)), np.where(rng.random(len(number)) < 0.8, targets, 4)])
    orders = permuted_orders(len(number), draws, seed=0, groups=torch.from_numpy(number)).numpy()
    return predicted, targets, number, orders


def test_f1_of_matched_tags_is_that_of_scikit_learn():
    predicted, targets, _, orders = matched()
    draws = matched_tag_f1(predicted, targets, orders, tags=6)
    assert draws.shape == (5, 2, 6)
    for draw, order in zip(draws, orders, strict=True):
        for of_layer, tags in zip(draw, predicted, strict=True):
            expected = f1_score(targets, tags[order], average=None, labels=range(6), zero_division=0)
            assert of_layer == pytest.approx(expected)


def test_entities_of_matched_sentences_are_counted_within_the_sentences_they_are_matched_with():
    predicted, targets, number, orders = matched()
    found = matched_entity_scores(predicted, targets, number, LABELS, orders)
    for draw, order in enumerate(orders):
        scores = count_entities(predicted[:, order], targets, number, LABELS).scores(np.ones((1, 30)))
        for name, values in scores.items():
            assert found[name][draw] == pytest.approx(values[0])
    unmatched = count_entities(predicted, targets, number, LABELS).scores(np.ones((1, 30)))["entity_f1"][0]
    assert unmatched[1] > found["entity_f1"][:, 1].max()  # what is known of the sentence is lost by matching
    none = matched_entity_scores(np.full_like(predicted, 4), targets, number, LABELS, orders)
    assert (none["entity_precision"] == 0).all()
