from __future__ import annotations

import os
import random
import re
import subprocess
import sys
import zlib
from collections import Counter
from functools import lru_cache
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

SYNTACTIC = ("subject_number", "object_number", "negation_scope", "tense", "agreement", "word_order", "entailment")


@lru_cache
def suite(seed: int = 0) -> Suite:
    return starter_suite(seed=seed, strict=True)


def task(name: str, seed: int = 0) -> Task:
    return next(task for task in suite(seed).tasks if task.name == name)


def bag_of_words() -> Any:
    return make_pipeline(CountVectorizer(), LogisticRegression(max_iter=1000))


def within_vocabulary(name: str) -> float:
    train = task(name).splits["train"]
    return float(cross_val_score(bag_of_words(), list(train.prompts), list(train.labels), cv=4).mean())


def on_held_out_words(name: str) -> float:
    train, test = task(name).splits["train"], task(name).splits["test"]
    return bag_of_words().fit(train.prompts, train.labels).score(test.prompts, test.labels)


@pytest.mark.parametrize("name", SYNTACTIC)
def test_syntactic_tasks_defeat_a_bag_of_words(name: str) -> None:
    assert within_vocabulary(name) <= 0.60
    assert on_held_out_words(name) <= 0.60


@pytest.mark.parametrize("name", ["topic", "sentiment", "word_content"])
def test_a_bag_of_words_succeeds_where_words_tell(name: str) -> None:
    assert within_vocabulary(name) >= 0.90


def test_a_bag_of_words_carries_over_to_test_where_its_words_do() -> None:
    assert on_held_out_words("word_content") >= 0.95


@pytest.mark.parametrize("name", list(STARTER_TASKS))
def test_every_class_comes_equally_often(name: str) -> None:
    sizes = {split: len(rows) for split, rows in task(name).splits.items()}
    assert sizes == {"train": 800, "validation": 200, "test": 400}
    for rows in task(name).splits.values():
        assert set(Counter(rows.labels).values()) == {len(rows) // len(task(name).labels)}
        assert all(target == task(name).labels[label] for target, label in zip(rows.targets, rows.labels, strict=True))


def test_traits_are_balanced_pair_by_pair() -> None:
    for split in ("train", "validation", "test"):
        traits = [sentence.traits for sentence in clauses(0, split)]
        binary = np.array([(t.subject_plural, t.object_plural, t.main_past, t.main_negated) for t in traits])
        for one in range(4):
            for other in range(one):
                assert set(Counter(map(tuple, binary[:, [one, other]].tolist())).values()) == {len(traits) // 4}


def test_tasks_share_their_sentences_and_stay_small() -> None:
    texts = {prompt for task in suite().tasks for rows in task.splits.values() for prompt in rows.prompts}
    assert len(texts) <= 7000
    assert sum(len(text.split()) for text in texts) <= 70_000
    shared = ("subject_number", "object_number", "negation_scope", "tense", "sentence_length", "word_content")
    assert len({task(name).splits["train"].prompts for name in shared}) == 1


def test_no_text_stands_in_two_splits() -> None:
    by_split = [
        {prompt for task in suite().tasks for prompt in task.splits[split].prompts}
        for split in ("train", "validation", "test")
    ]
    assert sum(map(len, by_split)) == len(set().union(*by_split))


@pytest.mark.parametrize("name", list(STARTER_TASKS))
def test_held_out_words_stand_in_test_rows_only(name: str) -> None:
    held_out = {word.lower() for word in held_out_words(STARTER_TASKS[name].held_out)}

    def words(*splits: str) -> set[str]:
        texts = " ".join(prompt for split in splits for prompt in task(name).splits[split].prompts)
        return set(re.findall(r"[a-z]+", texts.lower()))

    seen, tested = words("train", "validation"), words("test")
    assert not seen & held_out
    assert len(tested & held_out) > 50
    content_of_train = seen - tested
    assert len(content_of_train) > 100  # and what train talks of, test does not


def test_test_rows_share_only_function_words_and_the_nouns_of_word_content_with_train() -> None:
    def words(split: str) -> set[str]:
        return set(re.findall(r"[a-z]+", " ".join(task("tense").splits[split].prompts).lower()))

    known = {form for noun in WORD_CONTENT for form in (noun, plural(noun))}
    function_words = {*DETERMINERS, *PREPOSITIONS, *CONJUNCTIONS, "that", "in", "never", "not", "do", "does", "did"}
    assert words("train") & words("test") <= known | function_words


def test_no_noun_looks_like_a_verb() -> None:
    nouns = {form for noun in (*PEOPLE, *ANIMALS, *WORD_CONTENT) for form in (noun, plural(noun))}
    verbs = {form for verb in TRANSITIVE for form in (verb.base, verb.singular, verb.past, verb.participle)}
    assert not nouns & verbs
    assert len(nouns) > 500
    assert all(verb.past not in {verb.base, verb.singular} for verb in TRANSITIVE)


def test_length_is_the_number_of_words() -> None:
    rows = task("sentence_length").splits["train"]
    for prompt, label in zip(rows.prompts, rows.labels, strict=True):
        fewest, most = LENGTHS[label]
        assert fewest <= len(prompt.split()) <= most


def test_word_content_is_the_only_one_of_its_words_in_the_sentence() -> None:
    rows = task("word_content").splits["test"]
    for prompt, target in zip(rows.prompts, rows.targets, strict=True):
        words = re.findall(r"[a-z]+", prompt.lower())
        assert [noun for noun in WORD_CONTENT if noun in words or plural(noun) in words] == [target]


def test_broken_order_has_the_words_of_its_twin_and_broken_agreement_differs_in_one() -> None:
    rng = random.Random(0)
    for sentence in clauses(0, "validation"):
        swapped, flipped = sentence.with_wrong_order(rng), sentence.with_wrong_agreement()
        assert sorted(swapped.words) == sorted(sentence.words)
        assert sum(a != b for a, b in zip(swapped.words, sentence.words, strict=True)) == 2
        assert sum(a != b for a, b in zip(flipped.words, sentence.words, strict=True)) == 1


def test_the_broken_verb_is_the_one_in_the_present() -> None:
    present = {form for verb in TRANSITIVE for form in (verb.base, verb.singular)} | {"do", "does"}
    for sentence in clauses(0, "train"):
        verb, other = sentence.words[sentence.finite], sentence.finite_flipped
        assert {verb, other} <= present
        assert verb != other
        agrees_with_main = not sentence.traits.main_past
        is_plural = sentence.traits.subject_plural == agrees_with_main
        assert verb.endswith("s") != is_plural or verb in {"harass", "impress", "miss", "embarrass", "kiss"}


def test_seed_alone_decides_the_rows() -> None:
    random.seed(5)
    np.random.seed(5)
    alone = starter_suite(["tense"]).tasks[0]
    assert alone.splits == task("tense").splits
    assert alone.splits != starter_suite(["tense"], seed=1).tasks[0].splits


def test_a_tasks_rows_do_not_depend_on_the_others_asked_for() -> None:
    alone, beside = starter_suite(["agreement"]), starter_suite(["topic", "agreement"])
    assert alone.tasks[0].splits == beside.tasks[1].splits == task("agreement").splits


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
def test_other_seeds_defeat_a_bag_of_words_too(seed: int) -> None:
    for name in ("subject_number", "tense"):
        train, test = task(name, seed).splits["train"], task(name, seed).splits["test"]
        assert bag_of_words().fit(train.prompts, train.labels).score(test.prompts, test.labels) <= 0.60


def test_the_instruction_form_asks_and_its_answer_is_a_class() -> None:
    found = starter_suite(["sentiment"], prompt="instruction", max_rows=4).tasks[0]
    assert all(prompt.endswith("\nIs this opinion positive or negative?") for prompt in found.splits["train"].prompts)
    assert set(found.splits["train"].targets) == {"positive", "negative"}


def test_an_unknown_task_is_refused_with_its_close_match() -> None:
    with pytest.raises(ValueError, match=r"No task 'subject_numbr'. Did you mean 'subject_number'\?"):
        starter_suite(["subject_numbr"])
