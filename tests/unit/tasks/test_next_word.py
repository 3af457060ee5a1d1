"""The tasks whose label is the next word: balanced labels, held-out words, no shortcut past the subject."""

from __future__ import annotations

import pytest

from probes.tasks import next_word_suite
from probes.tasks.starter import held_out_words
from probes.values import SPLITS

LABELS = {"verb_number": ("was", "were"), "verb_time": ("was", "will"), "pronoun": ("he", "she")}


@pytest.fixture(scope="module")
def tasks():
    return {task.name: task for task in next_word_suite(prompt="raw").tasks}


def test_every_task_has_its_two_words_in_equal_numbers_and_no_sentence_twice(tasks):
    assert {name: task.labels for name, task in tasks.items()} == LABELS
    for task in tasks.values():
        splits = [task.splits[split] for split in SPLITS]
        assert [sum(split.labels) for split in splits] == [200, 50, 100]
        prompts = [prompt for split in splits for prompt in split.prompts]
        assert len(set(prompts)) == len(prompts) == 700


def test_content_words_of_test_rows_occur_in_no_other_split(tasks):
    for name, task in tasks.items():
        used = ("places", "adjectives", "relatives") if name == "pronoun" else ("places", "people")
        held_out = held_out_words(used)
        for split in SPLITS:
            words = {word.strip(",.") for prompt in task.splits[split].prompts for word in prompt.split()}
            assert bool(words & held_out) == (split == "test")


def test_the_noun_before_the_verb_does_not_tell_its_number(tasks):
    split = tasks["verb_number"].splits["train"]
    last_is_plural = [prompt.endswith("s") for prompt in split.prompts]
    agree = sum(label == plural for label, plural in zip(split.labels, last_is_plural, strict=True))
    assert 0.4 < agree / len(split.labels) < 0.6
    first_is_plural = [prompt.split()[1].endswith(("s", "men", "people")) for prompt in split.prompts]
    assert sum(a == b for a, b in zip(split.labels, first_is_plural, strict=True)) > 0.95 * len(split.labels)


def test_an_instruction_stands_before_the_beginning_and_a_seed_decides_the_sentences():
    first, again, other = (next_word_suite(["pronoun"], max_rows=6, seed=seed).tasks[0] for seed in (0, 0, 1))
    prompts = first.splits["test"].prompts
    assert all(prompt.startswith("Continue the sentence.\nThe ") for prompt in prompts)
    assert prompts == again.splits["test"].prompts != other.splits["test"].prompts


def test_an_unknown_task_is_refused():
    with pytest.raises(ValueError, match="verb_number"):
        next_word_suite(["verb_mood"])
