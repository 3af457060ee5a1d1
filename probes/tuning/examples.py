"""A task's rows as examples to tune on, and the batches of examples that make up optimizer steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from lightning import LightningDataModule

from probes.answers import Example, answer_ids, end_token
from probes.backbones import FrozenBackbone
from probes.seeds import derive_seed
from probes.tuning.tuning_settings import TuningSettings

_BATCHES_PER_BUCKET = 32
"""Batches within which rows are sorted by length: enough that few pads remain, few enough that the order is random."""


@dataclass(frozen=True)
class TuningExamples:
    """Rows of one split, in order: the rendered prompts and the answers as text."""

    prompts: tuple[str, ...]
    targets: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.prompts) != len(self.targets):
            raise ValueError(
                f"Every prompt expects one target; got {len(self.prompts)} prompts and {len(self.targets)} targets."
            )

    def __len__(self) -> int:
        return len(self.prompts)


Encoded = Mapping[str, tuple[Example, ...]]
"""Split → its examples; `train`, `validation` and `test` are always present, but the last two may be empty."""


def encode_splits(
    task: str, backbone: FrozenBackbone, examples: Mapping[str, TuningExamples], settings: TuningSettings
) -> Encoded:
    """Token ids of all splits.

    Args:
        task: Name of the data in errors.
        backbone: Its tokenizer, special tokens and truncation side are used.
        examples: The split `train`; `validation` and `test` are optional.
        settings: Maximum lengths.

    Raises:
        ValueError: There are no training rows, a split is unknown, a target is empty or too long, or an answer leaves
            no room for its prompt.
    """
    unknown = set(examples) - {"train", "validation", "test"}
    if unknown:
        raise ValueError(f"Task '{task}' has splits {sorted(unknown)}; tuning reads train, validation and test.")
    if not len(examples.get("train", ())):
        raise ValueError(
            f"Task '{task}' has no training rows to tune on. Set `suite` to one with a train split, or mend the data."
        )
    empty = TuningExamples((), ())
    return {
        split: _encode(f"{task}/{split}", backbone, examples.get(split, empty), settings)
        for split in ("train", "validation", "test")
    }


def _encode(
    where: str, backbone: FrozenBackbone, examples: TuningExamples, settings: TuningSettings
) -> tuple[Example, ...]:
    answers = _answers(where, backbone, examples, settings)
    longest = min(settings.max_length or backbone.tokenizer.max_length, backbone.tokenizer.max_length)
    limits = [longest + 1 - len(answer) for answer in answers]  # the end token is not read
    if limits and min(limits) < 1:
        raise ValueError(
            f"An answer of task '{where}' leaves no room for its prompt within {longest} tokens. "
            "Set `tuning.max_length` larger or `tuning.max_target_length` smaller."
        )
    prompts = _prompts(backbone, examples.prompts, limits)
    return tuple(Example(prompt, answer) for prompt, answer in zip(prompts, answers, strict=True))


def _answers(
    where: str, backbone: FrozenBackbone, examples: TuningExamples, settings: TuningSettings
) -> list[np.ndarray]:
    """Token ids of targets, each with the end token."""
    empty = sum(not target.strip() for target in examples.targets)
    if empty:
        raise ValueError(
            f"{empty} of {len(examples)} targets of task '{where}' are empty; tuning expects an answer for every "
            "prompt. Mend the data or leave the task out of the suite."
        )
    end = end_token(backbone)
    ids = answer_ids(backbone, examples.targets, examples.prompts)
    answers = [np.asarray([*answer, end], dtype=np.int32) for answer in ids]
    lengths = [len(answer) for answer in answers if len(answer) > settings.max_target_length]
    if lengths:
        raise ValueError(
            f"{len(lengths)} of {len(examples)} targets of task '{where}' are longer than "
            f"{settings.max_target_length} tokens; the longest has {max(lengths)}. Set `tuning.max_target_length`."
        )
    return answers


def _prompts(backbone: FrozenBackbone, prompts: Sequence[str], limits: Sequence[int]) -> list[np.ndarray]:
    """Prompts as the backbone tokenizes them; one longer than its limit loses its beginning."""
    ids = list(backbone.tokenize(prompts).ids)
    by_limit: dict[int, list[int]] = {}
    for row, limit in enumerate(limits):
        if len(ids[row]) > limit:
            by_limit.setdefault(limit, []).append(row)
    for limit, rows in by_limit.items():
        cut = backbone.tokenize([prompts[row] for row in rows], max_length=limit).ids
        for row, tokens in zip(rows, cut, strict=True):
            ids[row] = tokens
    return ids


def epoch_batches(lengths: Sequence[int], batch_size: int, *, seed: int, epoch: int) -> list[list[int]]:
    """The rows of every step of one epoch; each row occurs once, and the rows of a step have similar lengths.

    Rows are shuffled, sorted by length within buckets of 32 batches and divided into batches, which are shuffled in
    turn. The order depends only on the seed and the epoch.

    Args:
        lengths: Tokens of each row.
        batch_size: Rows per step; the last batch of the last bucket may have fewer.
        seed: 0 is a seed like any other.
        epoch: Number of the epoch, from 0.
    """
    random = np.random.default_rng(derive_seed(seed, "tuning order", epoch))
    order, batches = random.permutation(len(lengths)).tolist(), []
    for start in range(0, len(order), batch_size * _BATCHES_PER_BUCKET):
        bucket = sorted(order[start : start + batch_size * _BATCHES_PER_BUCKET], key=lambda row: lengths[row])
        batches += [bucket[i : i + batch_size] for i in range(0, len(bucket), batch_size)]
    return [batches[i] for i in random.permutation(len(batches)).tolist()]


class StepBatches:
    """A list of examples for every optimizer step, over all epochs.

    The loader can be resumed in Lightning's sense: its state is the number of steps made.

    Args:
        examples: Training examples.
        batch_size: Examples per step.
        total_steps: Optimizer steps of the whole tuning.
        seed: Decides the order.
        steps_done: Returns the number of steps made so far.
    """

    def __init__(
        self,
        examples: Sequence[Example],
        batch_size: int,
        *,
        total_steps: int,
        seed: int,
        steps_done: Callable[[], int] = lambda: 0,
    ) -> None:
        self.examples, self.batch_size = examples, batch_size
        self.total_steps, self.seed, self.steps_done = total_steps, seed, steps_done
        self._first = 0

    def __len__(self) -> int:
        return self.total_steps

    def __iter__(self) -> Iterator[list[Example]]:
        lengths = [example.num_inputs for example in self.examples]
        steps_per_epoch = -(-len(lengths) // self.batch_size)
        first, self._first = self._first, 0
        for epoch in range(first // steps_per_epoch, -(-self.total_steps // steps_per_epoch)):
            start = epoch * steps_per_epoch
            batches = epoch_batches(lengths, self.batch_size, seed=self.seed, epoch=epoch)
            for rows in batches[max(first - start, 0) : self.total_steps - start]:
                yield [self.examples[row] for row in rows]

    def state_dict(self) -> dict[str, int]:
        """The number of steps made."""
        return {"steps_done": self.steps_done()}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Continue after the steps made so far."""
        self._first = state_dict["steps_done"]


class TuningDataModule(LightningDataModule):
    """Serves training examples step by step; to Lightning, the whole tuning is one epoch.

    Args:
        examples: Training examples.
        batch_size: Examples per step.
        total_steps: Optimizer steps of the whole tuning.
        seed: Decides the order; 0 is a seed like any other.
    """

    def __init__(self, examples: Sequence[Example], batch_size: int, *, total_steps: int, seed: int) -> None:
        super().__init__()
        self.examples, self.batch_size, self.total_steps, self.seed = examples, batch_size, total_steps, seed

    def train_dataloader(self) -> StepBatches:
        """Serve one list of examples per step."""
        return StepBatches(
            self.examples,
            self.batch_size,
            total_steps=self.total_steps,
            seed=self.seed,
            steps_done=lambda: 0 if self.trainer is None else self.trainer.global_step,
        )
