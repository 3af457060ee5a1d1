"""Which examples make a step, and which of them share a forward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from lightning import LightningDataModule

from ..seeds import derive_seed
from .examples import Example

_BATCHES_PER_BUCKET = 32


def epoch_batches(lengths: Sequence[int], batch_size: int, *, seed: int, epoch: int) -> list[list[int]]:
    """Rows of every step of one pass, each row once; rows of a step are about equally long.

    Rows are shuffled, sorted by length within buckets of 32 batches, cut into batches, and these are shuffled: the
    order depends on seed and epoch alone.

    Args:
        lengths: Tokens of each row.
        batch_size: Rows a step; the last bucket's last may have fewer.
        seed: 0 is a seed like any other.
        epoch: Which pass, from 0.
    """
    random = np.random.default_rng(derive_seed(seed, "tuning order", epoch))
    order, batches = random.permutation(len(lengths)).tolist(), []
    for start in range(0, len(order), batch_size * _BATCHES_PER_BUCKET):
        bucket = sorted(order[start : start + batch_size * _BATCHES_PER_BUCKET], key=lambda row: lengths[row])
        batches += [bucket[i : i + batch_size] for i in range(0, len(bucket), batch_size)]
    return [batches[i] for i in random.permutation(len(batches)).tolist()]


def micro_batches(examples: Sequence[Example], tokens: int) -> list[list[Example]]:
    """Part examples, longest first, into groups of at most so many tokens, pads included; a longer one goes alone."""
    groups: list[list[Example]] = []
    for example in sorted(examples, key=lambda example: -example.num_inputs):
        if groups and groups[-1][0].num_inputs * (len(groups[-1]) + 1) <= tokens:
            groups[-1].append(example)
        else:
            groups.append([example])
    return groups


class StepBatches:
    """One list of examples an optimiser step, all epochs in a row, from any step on.

    A resumable loader in Lightning's sense: its state is the number of steps made.

    Args:
        examples: Training examples.
        batch_size: Examples a step.
        total_steps: Steps of the whole tuning.
        seed: Decides the order.
        steps_done: Tells how many steps were made so far.
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
        """Go on after so many steps."""
        self._first = state_dict["steps_done"]


class TuningDataModule(LightningDataModule):
    """Serves training examples step by step; the whole tuning is one pass of Lightning's.

    Args:
        examples: Training examples.
        batch_size: Examples a step.
        total_steps: Steps of the whole tuning.
        seed: Decides the order; 0 is a seed like any other.
    """

    def __init__(self, examples: Sequence[Example], batch_size: int, *, total_steps: int, seed: int) -> None:
        super().__init__()
        self.examples, self.batch_size, self.total_steps, self.seed = examples, batch_size, total_steps, seed

    def train_dataloader(self) -> StepBatches:
        """Serve one list of examples a step."""
        return StepBatches(
            self.examples,
            self.batch_size,
            total_steps=self.total_steps,
            seed=self.seed,
            steps_done=lambda: 0 if self.trainer is None else self.trainer.global_step,
        )
