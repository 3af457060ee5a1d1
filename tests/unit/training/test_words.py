"""Probes of words: sentences are resampled, permuted and held out as a whole, and controls follow the word."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from planted_tasks import EXACT, PLANTED, fit, planted_task, result

from probes.metrics import bootstrap_counts, permuted_orders, score_rows
from probes.training.selection import fold_of_rows, with_word_type_controls
from probes.training.task_data import LabelledActivations, TaskData
from probes.training.training_sets import half_weights
from probes.values import SPLITS, Activations

WORDS_PER_SENTENCE = 4
SENTENCES = torch.tensor([0, 0, 1, 1, 1, 2, 3, 3])


def of_words(data: TaskData, types: dict[str, list[str]] | None = None) -> TaskData:
    """A task whose rows are the words of sentences of four."""
    sentences, words = {}, {}
    for split in SPLITS:
        rows = len(getattr(data, split).targets)
        sentences[split] = torch.arange(rows) // WORDS_PER_SENTENCE
        words[split] = tuple(types[split] if types else (f"word-{i % 30}" for i in range(rows)))
    return replace(data, sentences=sentences, word_types=words)


def p_of(fitted) -> np.ndarray:
    """Of macro-F1 at each layer, by counting the permutations of sentences that reach it."""
    estimates = fitted.profile("macro_f1").estimates
    return (1 + (estimates.null >= estimates.values).sum(0)) / (1 + len(estimates.null))


@pytest.fixture(scope="module")
def planted():
    return fit(of_words(planted_task(classes=3)))


def test_a_tag_in_the_words_of_one_layer_is_found_there_and_nowhere_else(planted):
    scores = [result(planted, "macro_f1", layer) for layer in range(4)]
    assert scores[PLANTED].value > 0.8
    assert p_of(planted)[PLANTED] < 0.05
    assert result(planted, "selectivity").ci_low > 0.2
    assert all(score.value < 0.5 for layer, score in enumerate(scores) if layer != PLANTED)


def test_without_a_tag_in_the_activations_nothing_is_found():
    fitted = fit(of_words(planted_task(classes=3, planted=False)))
    assert all(result(fitted, "macro_f1", layer).value < 0.45 for layer in range(4))
    assert p_of(fitted)[PLANTED] > 0.05


def test_intervals_say_that_they_are_over_sentences(planted):
    assert result(planted, "macro_f1").interval_over == "sentences"
    assert result(planted, "macro_f1", control="word_types").interval_over == "sentences"
    refitted = fit(of_words(planted_task(classes=2)), replace(EXACT, training_sets=3))
    assert result(refitted, "macro_f1").interval_over == "sentences and training sets"
    assert planted.predictions.sentences.tolist() == (np.arange(160) // WORDS_PER_SENTENCE).tolist()


def test_a_sentence_of_equal_words_counts_as_one_row():
    generator = torch.Generator().manual_seed(0)
    logits, targets = torch.randn(2, 80, 3, generator=generator), torch.randint(3, (80,), generator=generator)
    repeated = torch.arange(80).repeat_interleave(5)
    once = score_rows("classification", logits, targets, bootstrap_counts(80, 300, seed=1))
    counts = bootstrap_counts(400, 300, seed=1, groups=repeated)
    often = score_rows("classification", logits[:, repeated], targets[repeated], counts, groups=80)
    naive = score_rows("classification", logits[:, repeated], targets[repeated], bootstrap_counts(400, 300, seed=1))
    for metric in ("accuracy", "macro_f1", "cross_entropy_bits"):
        for end, expected in zip(often.interval(metric), once.interval(metric), strict=True):
            torch.testing.assert_close(end, expected, rtol=0, atol=0.02)  # 80 rows bound the m of a share
        width, too_narrow = (one[1] - one[0] for one in (often.interval(metric), naive.interval(metric)))
        assert (too_narrow < 0.6 * width).all()  # the control: words drawn one by one


def test_a_word_has_the_same_control_label_wherever_it_occurs():
    train = torch.tensor([0, 1, 2, 2])
    types = {"train": ["a", "b", "a", "c"], "test": ["c", "a", "d"]}
    labels = {
        split: with_word_type_controls(train[: len(words)], words, train, 2, seed=3) for split, words in types.items()
    }
    assert labels["train"].shape == (3, 4)
    assert labels["train"][0].tolist() == train.tolist()
    for control in (1, 2):
        of_word = dict(zip(types["train"], labels["train"][control].tolist(), strict=True))
        assert labels["train"][control][0] == labels["train"][control][2] == of_word["a"]
        assert labels["test"][control].tolist()[:2] == [of_word["c"], of_word["a"]]
    drawn = with_word_type_controls(torch.zeros(3000), [str(i) for i in range(3000)], train, 1, seed=0)[1]
    assert abs((drawn == 2).float().mean() - 0.5) < 0.05  # as frequent as among the training rows


def test_a_probe_that_knows_words_by_heart_is_not_selective():
    generator = torch.Generator().manual_seed(0)
    number = {split: torch.randint(20, (400,), generator=generator) for split in SPLITS}
    tags = torch.randint(3, (20,), generator=generator)
    splits = {}
    for split in SPLITS:
        values = torch.nn.functional.one_hot(number[split], 20).float()[None]
        ids = tuple(f"{split}-{i}" for i in range(400))
        reading = planted_task().train.activations.reading
        splits[split] = LabelledActivations(Activations(values, (0,), ids, reading), tags[number[split]])
    data = TaskData(task="by heart", kind="classification", labels=("x", "y", "z"), **splits)
    words = {split: [str(i) for i in number[split].tolist()] for split in SPLITS}
    fitted = fit(of_words(data, words))
    assert result(fitted, "accuracy", 0).value > 0.99
    assert result(fitted, "accuracy", 0, control="word_types").value > 0.99
    assert abs(result(fitted, "selectivity", 0).value) < 0.02
    assert result(fitted, "accuracy", None, control="majority_per_word").value == 1.0


def test_a_fold_has_whole_sentences():
    fold = fold_of_rows("classification", torch.zeros(8), 3, seed=0, sentences=SENTENCES)
    for sentence in range(4):
        assert len(fold[sentence == SENTENCES].unique()) == 1
    assert len(fold.unique()) == 3


def test_few_validation_words_are_cross_validated_by_sentences():
    fitted = fit(of_words(planted_task(classes=2, rows=(240, 20, 160))))
    score = result(fitted, "macro_f1", split="validation")
    assert score.value > 0.8
    assert (score.n, score.interval_over) == (260, "sentences")


def test_half_of_the_training_sentences_are_kept_with_all_of_their_words():
    weights = half_weights(8, 10, seed=0, sentences=SENTENCES)
    for of_set in weights:
        kept = [bool(of_set[sentence == SENTENCES].min() > 0) for sentence in range(4)]
        assert sum(kept) == 2
        assert all(bool(of_set[sentence == SENTENCES].max() > 0) == kept[sentence] for sentence in range(4))
    torch.testing.assert_close(weights.mean(1), torch.ones(10))


def test_a_permuted_sentence_is_matched_with_one_other_word_by_word():
    orders = permuted_orders(8, 20, seed=0, groups=SENTENCES)
    assert len({tuple(order) for order in orders.tolist()}) > 5
    words = [(sentence == SENTENCES).nonzero()[:, 0].tolist() for sentence in range(4)]
    for order in orders.tolist():
        matched = [[order[word] for word in of_sentence] for of_sentence in words]
        others = [int(SENTENCES[of_sentence[0]]) for of_sentence in matched]
        assert sorted(others) == [0, 1, 2, 3]
        for other, of_sentence in zip(others, matched, strict=True):
            repeated = words[other] * 3
            assert of_sentence == repeated[: len(of_sentence)]


def test_one_word_of_each_sentence_is_measured_without_probes():
    data = of_words(planted_task())
    activations, targets = data.independent_rows("test", seed=1)
    assert len(activations.row_ids) == len(targets) == 40
    place = {row: i for i, row in enumerate(data.test.activations.row_ids)}
    rows = [place[row] for row in activations.row_ids]
    assert len({row // WORDS_PER_SENTENCE for row in rows}) == 40
    assert torch.equal(targets, data.test.targets[rows])
    assert torch.equal(activations.values, data.test.activations.values[:, rows])
    assert {row % WORDS_PER_SENTENCE for row in rows} == set(range(WORDS_PER_SENTENCE))
