"""Processes that tune one model together end with the weights, the losses and the scores of one process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Callback
from rank_tunings import CASES, SETTINGS, SHARDED, of_method, tuned
from safetensors.torch import load_file
from tuning_samples import encoded, toy_splits

from probes.backbones import tiny_backbone
from probes.trainers import default_trainer
from probes.tuning import TuningSettings
from probes.tuning.answer_scores import micro_batches_of
from probes.tuning.examples import StepBatches
from probes.tuning.ranks import ALONE, Ranks
from probes.tuning.sharding import refuse_measuring
from probes.tuning.tuning_trainer import ranks_of

TESTS = Path(__file__).parents[2]
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:Unsupported layer type:UserWarning")]

LOSS = 1e-6
"""Largest difference of losses, nats: rounding, which AdamW makes larger where gradients are small."""
WEIGHT = 5e-5
"""Largest difference of a weight after steps of 0.01 each (0.1 of ia3 and ln), likewise."""


@pytest.fixture(scope="module")
def two(tmp_path_factory) -> list[dict[str, Any]]:
    """What two gloo processes note."""
    folder = tmp_path_factory.mktemp("two")
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
    path = os.pathsep.join([str(TESTS.parent), str(TESTS)])
    done = subprocess.run(
        [sys.executable, *torchrun, str(TESTS / "rank_tunings.py"), str(folder)], capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}, check=False, timeout=540,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return [json.loads((folder / f"rank-{rank}.json").read_text()) for rank in range(2)]


def weights(note: dict[str, Any]) -> dict[str, torch.Tensor]:
    return load_file(next(Path(note["folder"]).glob("*.safetensors")))


def difference(first: dict[str, Any], second: dict[str, Any]) -> float:
    ours, others = weights(first), weights(second)
    assert ours.keys() == others.keys()
    return max((ours[name] - others[name]).abs().max().item() for name in ours)


def assert_the_same(found: dict[str, Any], alone: dict[str, Any]) -> None:
    assert difference(found, alone) < WEIGHT
    losses, expected = found["validation_losses"], alone["validation_losses"]
    assert list(losses) == [str(step) for step in expected]
    assert list(losses.values()) == pytest.approx(list(expected.values()), abs=LOSS)
    for scores in ("base", "tuned"):
        assert found[scores] == pytest.approx(alone[scores], abs=LOSS)
    assert found["steps"] == alone["steps"]


@pytest.mark.parametrize("case", CASES)
def test_two_processes_tune_what_one_process_tunes(two, tmp_path, case):
    alone = tuned(tmp_path, *CASES[case])
    assert_the_same(two[0][case], alone)
    record = json.loads((Path(two[0][case]["folder"]) / "tuning.json").read_text())
    one = json.loads((Path(alone["folder"]) / "tuning.json").read_text())
    assert (record["processes"], one["processes"]) == (2, 1)
    assert record["tokens"] == one["tokens"]


def test_ranks_of_these_tests_have_micro_batches_of_different_numbers():
    batches = StepBatches(encoded(tiny_backbone(), rows=20), SETTINGS.batch_size, total_steps=6, seed=0)
    numbers = [
        [len(micro_batches_of(batch, SETTINGS.micro_batch_tokens, Ranks(rank, 2))) for rank in range(2)]
        for batch in batches
    ]
    assert any(first != second for first, second in numbers)
    divided = [micro_batches_of(next(iter(batches)), 10, Ranks(rank, 2, sharded=False)) for rank in range(2)]
    assert sum(len(group) for groups in divided for group, _ in groups) == SETTINGS.batch_size


def test_a_mean_of_the_ranks_means_would_be_another_tuning(two):
    plain, naive = two[0]["plain"], two[0]["mean of means"]
    assert difference(naive, plain) > 5 * WEIGHT
    assert abs(naive["tuned"]["test_loss"] - plain["tuned"]["test_loss"]) > 5 * LOSS


def test_all_ranks_return_the_same_to_the_bit(two):
    for case in two[0]:
        if case not in {"messages", "out of memory"}:
            assert two[0][case] == two[1][case]


def test_a_finished_model_is_found_and_further_scores_do_not_tune_again(two):
    assert two[0]["found again"] == two[0]["plain"] | {"reused": True}
    again = two[0]["scored again"]
    assert again["reused"]
    assert (two[0]["plain"]["tuned"]["n_answered"], again["tuned"]["n_answered"]) == (5, 7)
    assert again["tuned"]["test_loss"] == pytest.approx(two[0]["plain"]["tuned"]["test_loss"], abs=LOSS)


def test_killed_ranks_resume_from_the_state_that_one_of_them_saved(two):
    for rank in two:
        assert rank["killed"]["steps made"] == [3, 4, 5]
    assert difference(two[0]["killed"], two[0]["not killed"]) == 0
    assert two[0]["killed"]["tuned"] == two[0]["not killed"]["tuned"]


def test_a_rank_whose_memory_runs_out_repeats_its_share_alone(two):
    assert [rank["out of memory"]["ran out"] for rank in two] == [0, 1]
    assert difference(two[0]["out of memory"], two[0]["plain"]) < WEIGHT
    assert two[0]["out of memory"]["tuned"] == two[1]["out of memory"]["tuned"]


@pytest.mark.parametrize("method", SHARDED)
def test_ranks_that_divide_frozen_weights_tune_what_one_process_tunes(two, tmp_path, method):
    assert [rank[f"sharded {method}"]["share"] for rank in two] == [pytest.approx(0.5, abs=0.01)] * 2
    alone = tuned(tmp_path, of_method(method), toy_splits(train=20))
    found = two[0][f"sharded {method}"]
    assert_the_same(found, alone)
    assert Path(found["folder"]).name == Path(alone["folder"]).name
    assert alone["tuned"]["test_loss"] < alone["base"]["test_loss"]


def test_divided_weights_are_scored_again_without_tuning(two):
    again, first = two[0]["sharded, scored again"], two[0]["sharded lora"]
    assert again["reused"]
    assert again["tuned"]["n_answered"] == 7
    assert again["tuned"]["test_loss"] == pytest.approx(first["tuned"]["test_loss"], abs=LOSS)


def test_errors_of_the_first_rank_are_raised_in_all_and_sums_are_equal(two):
    assert [rank["messages"]["error"] for rank in two] == ["rank 0 says no"] * 2
    assert two[0]["messages"]["total"] == two[1]["messages"]["total"] == pytest.approx(1.2)


def test_a_rank_that_looked_too_early_looks_again_and_follows_the_others(two):
    assert two[0]["messages"]["found"] == "a is finished"
    assert [rank["messages"]["together"] for rank in two] == [None, None]


def test_weights_are_not_divided_by_one_process_nor_where_all_are_trained():
    with pytest.raises(ValueError, match=r"the trainer has one process\. Set `trainer=ddp`"):
        ranks_of(default_trainer, TuningSettings(shard_weights=True))
    with pytest.raises(ValueError, match=r"`tuning\.method=full` freezes none"):
        TuningSettings(shard_weights=True, method="full")
    assert ranks_of(default_trainer, TuningSettings()) == (ALONE, None)


def test_layers_of_divided_weights_are_not_measured_between_steps():
    class Measuring(Callback):
        every_n_steps: int | None = 5

    with pytest.raises(ValueError, match=r"`callbacks\.every_n_steps=null`"):
        refuse_measuring([Measuring()])
    Measuring.every_n_steps = None
    refuse_measuring([Measuring()])


def test_one_process_is_a_group_of_its_own():
    ranks = Ranks()
    assert ranks.share([1, 2, 3]) == ranks.joined([[1, 2, 3]]) == [1, 2, 3]
    assert (ranks.gathered("a"), ranks.total(0.1), ranks.first(lambda: 5), ranks.most(3)) == (["a"], 0.1, 5, 3)
    assert ranks.agree("key", lambda: "found") is None
    assert replace(ranks, number=1, size=3).share("abcdefg") == ["b", "e"]
