import random

import pytest

from probes.activations.plan import padded_length, plan_batches
from probes.activations.rows import row_ids


def test_every_text_is_planned_once_within_the_budget_longest_first():
    draw = random.Random(0)
    lengths = [draw.randint(1, 900) for _ in range(500)]
    batches = plan_batches(lengths, tokens_per_batch=1024, limit=900)
    assert sorted(text for batch in batches for text in batch.texts) == list(range(500))
    assert all(len(b.texts) * b.length <= 1024 or len(b.texts) == 1 for b in batches)
    assert [b.length for b in batches] == sorted((b.length for b in batches), reverse=True)


def test_the_padded_length_of_a_text_depends_on_the_text_alone():
    draw = random.Random(1)
    lengths = [draw.randint(1, 900) for _ in range(200)]
    alone = [plan_batches([n], tokens_per_batch=1024, limit=2048)[0].length for n in lengths]
    for batch in plan_batches(lengths, tokens_per_batch=1024, limit=2048):
        assert {alone[text] for text in batch.texts} == {batch.length}


def test_padding_wastes_at_most_a_sixteenth_and_never_passes_the_limit():
    for tokens in range(1, 3000):
        length = padded_length(tokens, limit=3000)
        assert tokens <= length <= min(3000, tokens + tokens / 16 + 1)


def test_a_budget_below_one_token_is_refused():
    with pytest.raises(ValueError, match="tokens_per_batch"):
        plan_batches([3], tokens_per_batch=0, limit=8)


def test_row_ids_tell_task_split_label_and_occurrence_apart():
    ids = row_ids("a", "test", ["t", "t", "t", "u"], [0, 1, 0, 0])
    assert len(set(ids)) == 4
    assert set(ids).isdisjoint(row_ids("a", "train", ["t", "t", "t", "u"], [0, 1, 0, 0]))
    assert set(ids).isdisjoint(row_ids("b", "test", ["t", "t", "t", "u"], [0, 1, 0, 0]))
    assert row_ids("a", "test", ["u", "t"], [0, 1])[0] == ids[3]
