import numpy as np
import pytest

from probes.backbones import tiny_backbone
from probes.training.tuning import TuningExamples, TuningSettings
from probes.training.tuning.examples import encode_splits, end_token

BACKBONE = tiny_backbone(num_layers=1)


def encode(prompts, targets, **settings):
    examples = {"train": TuningExamples(tuple(prompts), tuple(targets))}
    return encode_splits("toy", BACKBONE, examples, TuningSettings(**settings))["train"]


def text(ids) -> str:
    return BACKBONE.tokenizer._tokenizer.decode(ids)


def test_a_prompt_has_the_tokens_the_frozen_backbone_reads_and_the_answer_ends():
    (example,) = encode(["Is it good?"], ["yes"])
    assert np.array_equal(example.prompt, BACKBONE.tokenize(["Is it good?"]).ids[0])
    assert text(example.answer[:-1]) == " yes"
    assert example.answer[-1] == end_token(BACKBONE) == 256
    assert example.num_inputs == len("Is it good?") + len(" yes")


def test_an_answer_starts_with_a_space_only_where_the_prompt_does_not_end_in_one():
    after_word, after_line = encode(["Answer:", "Answer:\n"], ["no", "no"])
    assert text(after_word.answer[:-1]) == " no"
    assert text(after_line.answer[:-1]) == "no"


def test_a_long_prompt_loses_its_beginning_so_that_prompt_and_answer_fit():
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
    with pytest.raises(ValueError, match=r"no room for its prompt.*`tuning\.max_length` larger"):
        encode(["a"], ["four"], max_length=4)
    with pytest.raises(ValueError, match=r"splits \['dev'\]; tuning reads train, validation and test"):
        encode_splits("toy", BACKBONE, {"dev": TuningExamples((), ())}, TuningSettings())
    with pytest.raises(ValueError, match="got 1 prompts and 2 targets"):
        TuningExamples(("a",), ("b", "c"))


def test_a_tokenizer_without_end_or_pad_token_is_refused():
    backbone = tiny_backbone(num_layers=1)
    backbone.tokenizer._tokenizer.pad_token = None
    with pytest.raises(ValueError, match="neither an end nor a pad token"):
        end_token(backbone)
