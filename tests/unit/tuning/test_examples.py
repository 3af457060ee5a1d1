from __future__ import annotations

import itertools

import numpy as np
import pytest

from probes.answers import Example, end_token, micro_batches
from probes.backbones import tiny_backbone
from probes.tuning import TuningExamples, TuningSettings
from probes.tuning.examples import StepBatches, encode_splits, epoch_batches

BACKBONE = tiny_backbone(num_layers=1)


def encode(prompts, targets, **settings):
    examples = {"train": TuningExamples(tuple(prompts), tuple(targets))}
    return encode_splits("toy", BACKBONE, examples, TuningSettings(**settings))["train"]


def text(ids) -> str:
    return BACKBONE.tokenizer.wrapped.decode(ids)


def test_a_prompt_has_the_tokens_of_the_frozen_backbone_and_the_answer_has_an_end_token():
    (example,) = encode(["Is it good?"], ["yes"])
    assert np.array_equal(example.prompt, BACKBONE.tokenize(["Is it good?"]).ids[0])
    assert text(example.answer[:-1]) == " yes"
    assert example.answer[-1] == end_token(BACKBONE) == 256
    assert example.num_inputs == len("Is it good?") + len(" yes")


def test_an_answer_starts_with_a_space_unless_the_prompt_ends_in_white_space():
    after_word, after_line = encode(["Answer:", "Answer:\n"], ["no", "no"])
    assert text(after_word.answer[:-1]) == " no"
    assert text(after_line.answer[:-1]) == "no"


def test_a_long_prompt_loses_its_beginning_so_that_prompt_and_answer_fit_the_limit():
    short, long = encode(["tiny", "0123456789 end"], ["no", "yes"], max_length=12)
    assert text(short.prompt) == "tiny"
    assert long.num_inputs == 12
    assert text(long.prompt) == "6789 end"


def test_missing_splits_are_empty():
    data = encode_splits("toy", BACKBONE, {"train": TuningExamples(("a",), ("b",))}, TuningSettings())
    assert (len(data["train"]), data["validation"], data["test"]) == (1, (), ())


def test_data_that_cannot_be_tuned_on_is_refused_by_name():
    with pytest.raises(ValueError, match="Task 'toy' has no training rows"):
        encode([], [])
    with pytest.raises(ValueError, match="2 of 3 targets of task 'toy/train' are empty"):
        encode(["a", "b", "c"], ["", "x", " "])
    with pytest.raises(
        ValueError, match=r"1 of 2 targets of .* longer than 4 tokens; the longest has 6.*`tuning\.max_ta"
    ):
        encode(["a", "b"], ["yes.", "no"], max_target_length=4)
    with pytest.raises(ValueError, match=r"no room for its prompt within 4 tokens.*`tuning\.max_length` larger"):
        encode(["a"], ["four"], max_length=4)
    with pytest.raises(ValueError, match=r"splits \['dev'\]; tuning reads train, validation and test"):
        encode_splits("toy", BACKBONE, {"dev": TuningExamples((), ())}, TuningSettings())
    with pytest.raises(ValueError, match="got 1 prompts and 2 targets"):
        TuningExamples(("a",), ("b", "c"))


def test_a_tokenizer_without_end_or_pad_token_is_refused():
    backbone = tiny_backbone(num_layers=1)
    backbone.tokenizer.wrapped.pad_token = None
    with pytest.raises(ValueError, match="neither an end nor a pad token"):
        end_token(backbone)


LENGTHS = np.random.default_rng(0).integers(5, 100, 1000).tolist()


def example(tokens: int, name: int = 0) -> Example:
    return Example(np.full(tokens - 1, name, dtype=np.int32), np.array([1, 2], dtype=np.int32))


def test_every_epoch_serves_every_row_once_in_full_batches():
    batches = epoch_batches(LENGTHS, 16, seed=0, epoch=0)
    assert sorted(itertools.chain(*batches)) == list(range(1000))
    assert sorted(map(len, batches)) == [8, *[16] * 62]


def test_the_order_depends_only_on_seed_and_epoch():
    order = epoch_batches(LENGTHS, 16, seed=0, epoch=1)
    assert order == epoch_batches(LENGTHS, 16, seed=0, epoch=1)
    assert order != epoch_batches(LENGTHS, 16, seed=0, epoch=0)
    assert order != epoch_batches(LENGTHS, 16, seed=1, epoch=1)


def test_rows_of_a_batch_have_similar_lengths_and_batches_are_not_sorted():
    batches = epoch_batches(LENGTHS, 16, seed=0, epoch=0)
    padded = sum(max(LENGTHS[row] for row in batch) * len(batch) for batch in batches)
    assert sum(LENGTHS) / padded > 0.93
    unsorted = [list(range(1000))[i : i + 16] for i in range(0, 1000, 16)]
    assert sum(LENGTHS) / sum(max(LENGTHS[row] for row in batch) * len(batch) for batch in unsorted) < 0.65
    widths = [max(LENGTHS[row] for row in batch) for batch in batches]
    assert abs(np.corrcoef(widths, range(len(widths)))[0, 1]) < 0.3


def test_micro_batches_hold_every_example_once_within_the_limit():
    examples = [example(tokens, name) for name, tokens in enumerate([7, 30, 9, 8, 12, 50])]
    groups = micro_batches(examples, 30)
    assert sorted(e.prompt[0] for group in groups for e in group) == list(range(6))
    assert [[e.num_inputs for e in group] for group in groups] == [[50], [30], [12, 9], [8, 7]]


def test_a_resumed_loader_serves_the_batches_that_the_first_had_not():
    examples = [example(tokens, name) for name, tokens in enumerate([7, 9, 8, 12, 10, 11, 6])]
    names = lambda batches: [[int(e.prompt[0]) for e in batch] for batch in batches]  # noqa: E731
    whole = names(StepBatches(examples, 2, total_steps=10, seed=0))
    assert len(whole) == 10
    assert whole[:4] != whole[4:8]
    for done in (0, 1, 4, 7, 9, 10):
        first = StepBatches(examples, 2, total_steps=10, seed=0, steps_done=lambda done=done: done)
        resumed = StepBatches(examples, 2, total_steps=10, seed=0)
        resumed.load_state_dict(first.state_dict())
        assert names(resumed) == whole[done:]
