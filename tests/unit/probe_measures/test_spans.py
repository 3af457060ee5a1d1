"""Without a planted tag the score falls to chance, without a random span it does not; what lies elsewhere stands."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch
from nuisance_samples import SETTINGS, planted

from probes.probe_measures import ProbedTask, SpanDeletion
from probes.probe_measures.nuisances.spans import _without_random as without_random
from probes.tasks import Split, Task

MEASURE = SpanDeletion(spans={"tag": r"^[ab] "}, resamples=100, permutations=100)


def with_variants(own: ProbedTask, *, without: ProbedTask) -> ProbedTask:
    """What a study does: activations of the variants, here of tasks planted without tag and with it."""
    variants = MEASURE.variants(own.task)
    assert list(variants) == ["without tag", "without random tag"]
    return replace(own, variants={"without tag": without.data, "without random tag": own.data})


def measured(own: ProbedTask) -> dict:
    return {profile.quantity.removeprefix("span/"): profile for profile in MEASURE(own)}


def test_a_planted_tag_falls_to_chance_and_a_random_span_does_not_move():
    own = with_variants(planted(label_is_tag=1.0, tag=1.5), without=planted())
    found = measured(own)
    assert found["without_tag_macro_f1"].estimates.values[1] < 0.62
    assert found["without_random_tag_macro_f1"].estimates.values[1] > 0.95
    for name in ("lost_with_tag_macro_f1", "lost_more_than_random_tag_macro_f1"):
        assert found[name].estimates.interval[0, 1] > 0.3
    verdicts = found["without_tag_macro_f1"].estimates.remarks
    assert verdicts[1].startswith("explained by tag; ")
    assert verdicts[0] == "the score is not above chance"


def test_a_score_that_does_not_rest_on_the_span_stands():
    own = with_variants(planted(signal=0.7), without=planted(signal=0.7))
    found = measured(own)
    assert found["without_tag_macro_f1"].estimates.remarks[1].startswith("stands")
    assert abs(found["lost_with_tag_macro_f1"].estimates.values[1]) < 0.05


def test_a_score_that_any_deletion_destroys_is_not_identifiable():
    own = planted(label_is_tag=1.0, tag=1.5)
    chance = planted().data
    found = measured(replace(own, variants={"without tag": chance, "without random tag": chance}))
    assert found["without_tag_macro_f1"].estimates.remarks[1].startswith("not identifiable")


def test_probes_without_permutations_of_their_own_are_judged_too():
    own = planted(label_is_tag=1.0, tag=1.5)
    unpermuted = replace(own, settings=replace(SETTINGS, permutations=0))
    found = measured(replace(unpermuted, variants={"without tag": planted().data, "without random tag": own.data}))
    assert found["without_tag_macro_f1"].estimates.remarks[1].startswith("explained by tag")


def test_the_span_is_deleted_and_as_many_words_elsewhere():
    prompts = tuple(f"a one two three {i} four five\n(A) x (B) y" for i in range(6))
    rows = Split(prompts, (0, 1) * 3, ("",) * 6)
    task = Task("toy", "classification", ("no", "yes"), dict.fromkeys(("train", "validation", "test"), rows))
    variants = SpanDeletion(spans={"options": r"\n\(A\)(.|\n)*", "absent": "zzz"}).variants(task)
    assert list(variants) == ["without options", "without random options"]
    assert variants["without options"].splits["test"].prompts[0] == "a one two three 0 four five"
    for prompt, whole in zip(variants["without random options"].splits["test"].prompts, prompts, strict=True):
        assert prompt.endswith("(A) x (B) y")
        assert len(prompt.split()) == len(whole.split()) - 4
    again = SpanDeletion(spans={"options": r"\n\(A\)(.|\n)*"}).variants(task)
    assert again["without random options"].splits == variants["without random options"].splits


def test_a_random_span_leaves_at_least_one_word():
    import random

    pattern = re.compile(r"\(.*\)")
    assert without_random("one (a long span of words)", pattern, random.Random(0)) == "one (a long span of words)"
    found = without_random("one two (a long span of words)", pattern, random.Random(0))
    assert found in {"one (a long span of words)", "two (a long span of words)"}


def test_a_prompt_that_is_the_span_alone_and_a_bad_expression_are_refused():
    task = planted().task
    with pytest.raises(ValueError, match=r"Task 'planted', split 'train': 300 prompts consist of the span 'all' alone"):
        SpanDeletion(spans={"all": ".*"}).variants(task)
    with pytest.raises(ValueError, match=r"`analysis\.probe_measures\.spans\.spans\.bad` is no regular expression"):
        SpanDeletion(spans={"bad": "("})


def test_without_variants_nothing_is_measured():
    assert measured(planted()) == {}
    assert torch.is_tensor(planted().data.test.targets)
