import itertools

import numpy as np

from probes.training.tuning.batches import StepBatches, epoch_batches, micro_batches
from probes.training.tuning.examples import Example

LENGTHS = np.random.default_rng(0).integers(5, 100, 1000).tolist()


def example(tokens: int, name: int = 0) -> Example:
    return Example(np.full(tokens - 1, name, dtype=np.int32), np.array([1, 2], dtype=np.int32))


def test_every_pass_serves_every_row_once_in_full_batches():
    batches = epoch_batches(LENGTHS, 16, seed=0, epoch=0)
    assert sorted(itertools.chain(*batches)) == list(range(1000))
    assert sorted(map(len, batches)) == [8, *[16] * 62]


def test_the_order_is_a_function_of_seed_and_epoch_alone():
    order = epoch_batches(LENGTHS, 16, seed=0, epoch=1)
    assert order == epoch_batches(LENGTHS, 16, seed=0, epoch=1)
    assert order != epoch_batches(LENGTHS, 16, seed=0, epoch=0)
    assert order != epoch_batches(LENGTHS, 16, seed=1, epoch=1)


def test_rows_of_a_batch_are_about_equally_long_and_batches_are_not_sorted():
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


def test_a_resumed_loader_serves_what_the_first_had_left():
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
