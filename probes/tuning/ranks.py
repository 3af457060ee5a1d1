"""The processes that tune one model together, and what they tell each other besides gradients."""

from __future__ import annotations

import atexit
import math
import pickle
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor

_T = TypeVar("_T")
_LONGEST_WAIT = timedelta(days=30)
"""How long a rank waits for another in a message: longer than any lock or score; a rank that dies ends the wait."""
_ROUNDS_UNTIL_AGREED = 60
_SECONDS_OF_A_ROUND = 1.0


@dataclass(frozen=True)
class Ranks:
    """The processes that tune one model together, as one of them sees them; by default there is one.

    Messages go through a process group of their own (gloo, on the CPU) with a timeout of 30 days: one rank may wait for
    a lock, score answers or save a model while the others wait for it.

    Attributes:
        number: This process, from 0.
        size: Number of processes.
        sharded: Whether each holds a part of the frozen weights, so that all have to make the same passes.
    """

    number: int = 0
    size: int = 1
    sharded: bool = False

    def share(self, rows: Sequence[_T]) -> list[_T]:
        """Every so many-th of some rows, so that ranks share out rows of all lengths evenly.

        >>> Ranks(1, 2).share("abcde")
        ['b', 'd']
        """
        return list(rows[self.number :: self.size])

    def joined(self, shares: Sequence[Sequence[_T]]) -> list[_T]:
        """The rows that `share` has divided, in their order.

        >>> Ranks(0, 2).joined(["ace", "bd"])
        ['a', 'b', 'c', 'd', 'e']
        """
        rows = cast("list[_T]", [None] * sum(map(len, shares)))
        for number, share in enumerate(shares):
            rows[number :: self.size] = share
        return rows

    def gathered(self, value: _T) -> list[_T]:
        """What each rank has, in the order of ranks; everything that is sent must allow pickling."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value, group=_messages())
        return values

    def total(self, value: float) -> float:
        """The sum over all ranks, which is the same to the bit in each of them."""
        return value if self.size == 1 else math.fsum(self.gathered(value))

    def first(self, function: Callable[[], _T]) -> _T:
        """What a function returns in rank 0, which alone calls it; if it raises there, every rank raises its error."""
        if self.size == 1:
            return function()
        outcome: list[Any] = [None, None]
        if self.number == 0:
            try:
                outcome = [function(), None]
            except Exception as error:  # it is raised below, in every rank
                outcome = [None, _sendable(error)]
        dist.broadcast_object_list(outcome, src=0, group=_messages())
        if outcome[1] is not None:
            raise outcome[1]
        return outcome[0]

    def agree(self, key: str, done: Callable[[], _T | None]) -> _T | None:
        """Wait until all ranks are about to tune the same model.

        Another job may finish a model after one rank has looked for it and before another has. Then the first rank
        looks again, and goes on to the model that the other is at.

        Args:
            key: Of the model that this rank wants.
            done: Returns that model if it has been finished.

        Returns:
            The finished model; `None` if all ranks are to tune it.

        Raises:
            RuntimeError: The ranks want different models, none of which is finished.
        """
        for _ in range(_ROUNDS_UNTIL_AGREED):
            if len(set(self.gathered(key))) == 1:
                return None
            if (model := done()) is not None:
                return model
            time.sleep(_SECONDS_OF_A_ROUND)
        raise RuntimeError(
            f"The {self.size} processes of this job want to tune different models; this one the model {key}. Give "
            "all of them the same command line, and a `paths.cache_dir` that all of them see."
        )

    def most(self, number: int) -> int:
        """The largest of the numbers that the ranks have."""
        return max(self.gathered(number))

    def sum_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Replace the gradient of every parameter by its sum over all ranks, in one message.

        A parameter without gradient, in a rank that has no rows of a step, counts as zero.
        """
        if self.size == 1:
            return
        ours = list(parameters)
        flat = torch.cat([_gradient(parameter).reshape(-1) for parameter in ours])
        dist.all_reduce(flat)
        for parameter, summed in zip(ours, flat.split([p.numel() for p in ours]), strict=True):
            parameter.grad = summed.view_as(parameter)


ALONE = Ranks()


def _gradient(parameter: torch.nn.Parameter) -> Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad


def _sendable(error: Exception) -> Exception:
    """An error, or its words where it cannot be pickled."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # whatever its constructor does
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


@cache
def _messages() -> dist.ProcessGroup:
    """The group of messages; the first call waits for all ranks."""
    atexit.register(_messages.cache_clear)  # a group that is held when the interpreter ends can abort the process
    return cast("dist.ProcessGroup", dist.new_group(backend="gloo", timeout=_LONGEST_WAIT))
