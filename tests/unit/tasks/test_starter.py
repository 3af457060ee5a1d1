from __future__ import annotations

import hashlib
import json
import os
import random
import re
import subprocess
import sys
import zlib
from collections import Counter
from functools import lru_cache
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline

from probes.tasks import Suite, Task, starter_suite
from probes.tasks.starter import STARTER_TASKS, held_out_words
from probes.tasks.starter.clauses import LENGTHS, clauses
from probes.tasks.starter.vocabulary import (
    ANIMALS,
    CONJUNCTIONS,
    DETERMINERS,
    PEOPLE,
    PREPOSITIONS,
    TRANSITIVE,
    WORD_CONTENT,
    plural,
)

ROWS_OF_SEED_0 = {
    "raw": "3e0ba2ad2c58dcc1d3ead42b4373454ac36513be94e8a327fb939170c733b7c4",
    "instruction": "10f879af755fdfb56a5f4661eaa0b63c168ed7b8be52ea86c83e226c806c0542",
}
"""Prompt → SHA-256 of all rows, so that published results on this suite can be reproduced."""

SYNTACTIC = ("subject_number", "object_number", "negation_scope", "tense", "agreement", "word_order", "entailment")


@lru_cache
def suite(seed: int = 0) -> Suite:
    return starter_suite(seed=seed, strict=True)


def task(name: str, seed: int = 0) -> Task:
    return next(task for task in suite(seed).tasks if task.name == name)


def bag_of_words() -> Any:
    return make_pipeline(CountVectorizer(), LogisticRegression(max_iter=1000))


def accuracy_on_seen_words(name: str) -> float:
    train = task(name).splits["train"]
    return float(cross_val_score(bag_of_words(), list(train.prompts), list(train.labels), cv=4).mean())


def accuracy_on_held_out_words(name: str) -> float:
    train, test = task(name).splits["train"], task(name).splits["test"]
    return bag_of_words().fit(train.prompts, train.labels).score(test.prompts, test.labels)


@pytest.mark.parametrize("name", SYNTACTIC)
def test_a_bag_of_words_fails_on_syntactic_tasks(name: str) -> None:
    assert accuracy_on_seen_words(name) <= 0.60
    assert accuracy_on_held_out_words(name) <= 0.60


@pytest.mark.parametrize("name", ["topic", "sentiment", "word_content"])
def test_a_bag_of_words_succeeds_on_lexical_tasks(name: str) -> None:
    assert accuracy_on_seen_words(name) >= 0.90


def test_a_bag_of_words_generalises_to_test_where_test_has_its_words() -> None:
    assert accuracy_on_held_out_words("word_content") >= 0.95


@pytest.mark.parametrize("name", list(STARTER_TASKS))
def test_all_classes_have_equally_many_rows(name: str) -> None:
    sizes = {split: len(rows) for split, rows in task(name).splits.items()}
    assert sizes == {"train": 800, "validation": 200, "test": 400}
    for rows in task(name).splits.values():
        assert set(Counter(rows.labels).values()) == {len(rows) // len(task(name).labels)}
        assert all(target == task(name).labels[label] for target, label in zip(rows.targets, rows.labels, strict=True))


def test_every_pair_of_traits_is_balanced() -> None:
    for split in ("train", "validation", "test"):
        traits = [sentence.traits for sentence in clauses(0, split)]
        binary = np.array([(t.subject_plural, t.object_plural, t.main_past, t.main_negated) for t in traits])
        for first, second in combinations(range(4), 2):
            assert set(Counter(map(tuple, binary[:, [first, second]].tolist())).values()) == {len(traits) // 4}


def test_tasks_share_their_sentences_and_the_suite_is_small() -> None:
    texts = {prompt for task in suite().tasks for rows in task.splits.values() for prompt in rows.prompts}
    assert len(texts) <= 7000
    assert sum(len(text.split()) for text in texts) <= 70_000
    shared = ("subject_number", "object_number", "negation_scope", "tense", "sentence_length", "word_content")
    assert len({task(name).splits["train"].prompts for name in shared}) == 1


def test_no_text_is_in_two_splits() -> None:
    by_split = [
        {prompt for task in suite().tasks for prompt in task.splits[split].prompts}
        for split in ("train", "validation", "test")
    ]
    assert sum(map(len, by_split)) == len(set().union(*by_split))


@pytest.mark.parametrize("name", list(STARTER_TASKS))
def test_held_out_words_occur_only_in_test_rows(name: str) -> None:
    held_out = {word.lower() for word in held_out_words(STARTER_TASKS[name].held_out)}

    def words(*splits: str) -> set[str]:
        texts = " ".join(prompt for split in splits for prompt in task(name).splits[split].prompts)
        return set(re.findall(r"[a-z]+", texts.lower()))

    seen, in_test = words("train", "validation"), words("test")
    assert not seen & held_out
    assert len(in_test & held_out) > 50
    assert len(seen - in_test) > 100  # the converse: many words of train do not occur in test


def test_test_rows_share_only_function_words_and_the_nouns_of_word_content_with_train() -> None:
    def words(split: str) -> set[str]:
        return set(re.findall(r"[a-z]+", " ".join(task("tense").splits[split].prompts).lower()))

    nouns = {form for noun in WORD_CONTENT for form in (noun, plural(noun))}
    function_words = {*DETERMINERS, *PREPOSITIONS, *CONJUNCTIONS, "that", "in", "never", "not", "do", "does", "did"}
    assert words("train") & words("test") <= nouns | function_words


def test_no_noun_has_the_form_of_a_verb() -> None:
    nouns = {form for noun in (*PEOPLE, *ANIMALS, *WORD_CONTENT) for form in (noun, plural(noun))}
    verbs = {form for verb in TRANSITIVE for form in (verb.base, verb.singular, verb.past, verb.participle)}
    assert not nouns & verbs
    assert len(nouns) > 500
    assert all(verb.past not in {verb.base, verb.singular} for verb in TRANSITIVE)


def test_the_class_of_sentence_length_counts_the_words() -> None:
    rows = task("sentence_length").splits["train"]
    for prompt, label in zip(rows.prompts, rows.labels, strict=True):
        fewest, most = LENGTHS[label]
        assert fewest <= len(prompt.split()) <= most
    assert [name for name in STARTER_TASKS if task(name).ordered] == ["sentence_length"]


def test_each_sentence_has_exactly_one_of_the_nouns_of_word_content() -> None:
    rows = task("word_content").splits["test"]
    for prompt, target in zip(rows.prompts, rows.targets, strict=True):
        words = re.findall(r"[a-z]+", prompt.lower())
        assert [noun for noun in WORD_CONTENT if noun in words or plural(noun) in words] == [target]


def test_wrong_order_keeps_all_words_and_wrong_agreement_changes_one() -> None:
    rng = random.Random(0)
    for sentence in clauses(0, "validation"):
        swapped, flipped = sentence.with_wrong_order(rng), sentence.with_wrong_agreement()
        assert sorted(swapped.words) == sorted(sentence.words)
        assert sum(a != b for a, b in zip(swapped.words, sentence.words, strict=True)) == 2
        assert sum(a != b for a, b in zip(flipped.words, sentence.words, strict=True)) == 1


def test_wrong_agreement_changes_the_verb_in_the_present_tense() -> None:
    present = {form for verb in TRANSITIVE for form in (verb.base, verb.singular)} | {"do", "does"}
    for sentence in clauses(0, "train"):
        verb, flipped = sentence.words[sentence.present_verb], sentence.present_verb_flipped
        assert {verb, flipped} <= present
        assert verb != flipped
        agrees_with_main = not sentence.traits.main_past
        is_plural = sentence.traits.subject_plural == agrees_with_main
        assert verb.endswith("s") != is_plural or verb in {"harass", "impress", "miss", "embarrass", "kiss"}


def test_the_rows_depend_on_the_seed_and_not_on_global_random_state() -> None:
    random.seed(5)
    np.random.seed(5)
    alone = starter_suite(["tense"]).tasks[0]
    assert alone.splits == task("tense").splits
    assert alone.splits != starter_suite(["tense"], seed=1).tasks[0].splits


def test_the_rows_of_a_task_do_not_depend_on_the_other_tasks() -> None:
    alone, among = starter_suite(["agreement"]), starter_suite(["topic", "agreement"])
    assert alone.tasks[0].splits == among.tasks[1].splits == task("agreement").splits


@pytest.mark.parametrize("prompt", list(ROWS_OF_SEED_0))
def test_the_rows_of_seed_0_never_change(prompt: str) -> None:
    rows = [
        (task.name, task.kind, task.labels, task.cluster, task.unseen, name, list(zip(*columns, strict=True)))
        for task in starter_suite(seed=0, prompt=prompt).tasks
        for name, split in task.splits.items()
        for columns in [(split.prompts, split.labels, split.targets)]
    ]
    assert hashlib.sha256(json.dumps(rows).encode()).hexdigest() == ROWS_OF_SEED_0[prompt]


def test_the_rows_are_the_same_in_every_process() -> None:
    code = "from probes.tasks import starter_suite; import zlib; print(zlib.crc32(repr(starter_suite()).encode()))"
    found = [
        subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True, text=True, check=True, env={**os.environ, "PYTHONHASHSEED": hash_seed},
        ).stdout
        for hash_seed in ("1", "2")
    ]  # fmt: skip
    assert found[0] == found[1] == f"{zlib.crc32(repr(starter_suite()).encode())}\n"


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_bag_of_words_fails_with_other_seeds_too(seed: int) -> None:
    for name in ("subject_number", "tense"):
        train, test = task(name, seed).splits["train"], task(name, seed).splits["test"]
        assert bag_of_words().fit(train.prompts, train.labels).score(test.prompts, test.labels) <= 0.60


def test_an_instruction_ends_with_the_question_and_its_answer_is_a_class() -> None:
    found = starter_suite(["sentiment"], prompt="instruction", max_rows=4).tasks[0]
    assert all(prompt.endswith("\nIs this opinion positive or negative?") for prompt in found.splits["train"].prompts)
    assert set(found.splits["train"].targets) == {"positive", "negative"}


def test_an_unknown_task_is_refused_with_the_closest_name() -> None:
    with pytest.raises(ValueError, match=r"No task 'subject_numbr'. Did you mean 'subject_number'\?"):
        starter_suite(["subject_numbr"])
