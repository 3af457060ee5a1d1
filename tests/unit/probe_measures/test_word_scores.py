"""F1 of each tag and of whole entities are those of scikit-learn and of counting, and only tasks of words have them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from planted_tasks import EXACT, PLANTED, fit, planted_task
from sklearn.metrics import f1_score

from probes.analysis.significance import with_p_values
from probes.metrics.sequences import count_entities
from probes.probe_measures import EntityScores, ProbedTask, TagScores
from probes.tasks import Task
from probes.trainers import default_trainer
from probes.values import SPLITS

LABELS = ("B-x", "I-x", "O")


def probed(*, of_words: bool = True, labels: tuple[str, ...] = LABELS) -> ProbedTask:
    data = replace(planted_task(classes=3), labels=labels)
    if of_words:
        rows = {split: len(getattr(data, split).targets) for split in SPLITS}
        sentences = {split: torch.arange(count) // 4 for split, count in rows.items()}
        types = {split: tuple(f"word-{i % 30}" for i in range(count)) for split, count in rows.items()}
        data = replace(data, sentences=sentences, word_types=types)
    task = Task("planted", "classification", labels, {})
    fitted = fit(data, EXACT)
    context: dict[str, Any] = {"settings": EXACT, "trainer": default_trainer, "seed": 0}
    return ProbedTask(task=task, data=data, fit=fitted, **context)


@pytest.fixture(scope="module")
def words():
    return probed()


def test_f1_of_each_tag_is_that_of_scikit_learn_at_every_layer(words):
    profiles = {profile.task: profile for profile in TagScores(samples=100)(words)}
    predictions = words.fit.predictions
    assert list(profiles) == list(LABELS)
    for layer in range(4):
        expected = f1_score(predictions.targets, predictions.predicted[layer], average=None, labels=[0, 1, 2])
        assert [profiles[tag].estimates.values[layer] for tag in LABELS] == pytest.approx(expected.tolist())
    for tag, profile in profiles.items():
        assert profile.quantity == "tag_f1/planted"
        assert profile.estimates.n == int((predictions.targets == LABELS.index(tag)).sum())
        assert profile.estimates.interval_over == "sentences"
        low, high = profile.estimates.interval
        assert ((low <= profile.estimates.values) & (profile.estimates.values <= high)).all()
        others = [layer for layer in range(4) if layer != PLANTED]
        assert low[PLANTED] > profile.estimates.values[others].max()


def test_p_of_tags_and_entities_find_the_planted_layer_and_no_other(words):
    found = [*TagScores(samples=0, permutations=200)(words), *EntityScores(samples=0, permutations=200)(words)]
    for profile in (profile for profile in found if not profile.control):
        assert profile.estimates.null.shape == (200, 4)
        p = with_p_values([profile])[0].estimates.p
        assert p[PLANTED] <= 0.01
        assert p[[layer for layer in range(4) if layer != PLANTED]].min() > 0.05
    assert all(profile.estimates.null is None for profile in TagScores(samples=0, permutations=0)(words))


def test_frequent_tags_are_scored_if_there_are_too_many(words):
    targets = words.fit.predictions.targets
    frequent = {LABELS[tag] for tag in np.argsort(-np.bincount(targets))[:2]}
    assert {profile.task for profile in TagScores(samples=0, most_tags=2)(words)} == frequent


def test_entities_are_scored_as_wholes_with_the_majority_of_each_word_beside(words):
    profiles = list(EntityScores(samples=100)(words))
    predictions = words.fit.predictions
    counts = count_entities(
        predictions.predicted.astype(int), predictions.targets.astype(int), predictions.sentences, LABELS
    )
    by_name = {(profile.quantity, profile.control): profile for profile in profiles}
    assert set(by_name) == {
        (f"entity_{name}", control) for name in ("f1", "precision", "recall") for control in ("", "majority_per_word")
    }
    recall = by_name["entity_recall", ""].estimates
    assert recall.values == pytest.approx(counts.right.sum(1) / counts.true.sum())
    assert (recall.n, recall.interval_over) == (int(counts.true.sum()), "sentences")
    f1 = by_name["entity_f1", ""].estimates
    assert f1.interval[0, PLANTED] > f1.values[0]
    assert by_name["entity_f1", "majority_per_word"].layers == (None,)


def test_texts_have_no_tags_and_words_without_entities_no_entities(words):
    of_texts = probed(of_words=False)
    assert list(TagScores()(of_texts)) == list(EntityScores()(of_texts)) == []
    assert list(EntityScores()(probed(labels=("NOUN", "VERB", "O")))) == []
