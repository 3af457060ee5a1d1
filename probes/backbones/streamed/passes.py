"""Forward passes that wait for each other at every block, so that its weights are read once for all of them.

Each pass runs the model's own forward in a thread of its own, so that nothing of the model is written anew. A hook in
front of every block parks the thread; when all passes are parked, the weights of the first block that any of them waits
for are read, and these passes go on one after another. Only one thread runs at any time. The hidden states of parked
passes are kept in memory up to a limit and in files beyond it.
"""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from probes.backbones.streamed.weights import DiskWeights

_T = TypeVar("_T")

HELD_BYTES = 2**30
"""Bytes of hidden states that parked passes may hold in memory together."""


class _Abandoned(BaseException):
    """Another pass has failed, so that this one ends."""


@dataclass
class _Pass(Generic[_T]):
    """One forward pass in a thread of its own."""

    call: Callable[[], _T]
    waits_for: int | None = None  # the number of a block; None: it runs, or has ended
    result: _T | None = None
    error: BaseException | None = None
    abandoned: bool = False
    go: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    parked: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    spilled: tuple[Tensor, Path] | None = None


class BlockByBlock:
    """Runs a model whose blocks are on disk.

    Args:
        weights: The weights.
        blocks: Name and module of every block, in the order in which they are run.
        held_bytes: Bytes of hidden states that parked passes may hold in memory together.
    """

    def __init__(
        self, weights: DiskWeights, blocks: Sequence[tuple[str, nn.Module]], *, held_bytes: int = HELD_BYTES
    ) -> None:
        self._weights, self._names = weights, [f"{name}." for name, _ in blocks]
        self._held_bytes, self._held = held_bytes, 0
        self._loaded: int | None = None
        self._current = threading.local()
        self._scratch: Path | None = None
        for number, (_, block) in enumerate(blocks):
            block.register_forward_pre_hook(self._waiting(number), with_kwargs=True)

    def run_together(self, calls: Sequence[Callable[[], _T]]) -> list[_T]:
        """Call functions that each run the model once; every block is read once for all of them."""
        passes = [_Pass(call) for call in calls]
        threads = [threading.Thread(target=self._run, args=(one,), daemon=True, name="forward pass") for one in passes]
        with tempfile.TemporaryDirectory(prefix="probes-hidden-") as scratch:
            self._scratch = Path(scratch)
            try:
                for one, thread in zip(passes, threads, strict=True):
                    thread.start()
                    self._resume(one)
                while waiting := [one for one in passes if one.waits_for is not None]:
                    number = min(one.waits_for for one in waiting if one.waits_for is not None)
                    self._load(number)
                    for one in waiting:
                        if one.waits_for == number:
                            self._resume(one)
            finally:
                self._scratch, self._held = None, 0
                for one in passes:
                    one.abandoned = True
                    one.go.release()
                for thread in threads:
                    if thread.ident is not None:
                        thread.join()
        return [one.result for one in passes]  # pyright: ignore[reportReturnType]  # each has ended without an error

    def _run(self, one: _Pass[Any]) -> None:
        self._current.one = one
        one.go.acquire()
        try:
            if not one.abandoned:
                with torch.no_grad():
                    one.result = one.call()
        except BaseException as error:
            one.error = error
        one.waits_for = None
        one.parked.release()

    def _resume(self, one: _Pass[Any]) -> None:
        """Let a pass run until it waits for a block, or ends."""
        one.waits_for = None
        one.go.release()
        one.parked.acquire()
        if one.error is not None:
            raise one.error

    def _waiting(self, number: int) -> Callable[..., None]:
        def hook(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            one: _Pass[Any] | None = getattr(self._current, "one", None)
            if one is None:  # a pass by itself
                self._load(number)
                return
            hidden = args[0] if args else kwargs["hidden_states"]
            self._put_away(one, hidden)
            one.waits_for = number
            one.parked.release()
            one.go.acquire()
            if one.abandoned:
                raise _Abandoned
            self._take_back(one, hidden)

        return hook

    def _load(self, number: int) -> None:
        if self._loaded == number:
            return
        if self._loaded is not None:
            self._weights.drop(self._names[self._loaded])
        self._loaded = None
        self._weights.load(self._names[number])
        self._loaded = number

    def _put_away(self, one: _Pass[Any], hidden: Tensor) -> None:
        """Move the hidden states of a pass that parks into a file, if too many are in memory."""
        storage = hidden.untyped_storage()
        whole = hidden.is_contiguous() and storage.nbytes() == hidden.nbytes
        if self._held + hidden.nbytes <= self._held_bytes or not whole or self._scratch is None:
            self._held += hidden.nbytes
            one.spilled = None
            return
        path = self._scratch / f"{id(one)}.bin"
        torch.from_file(str(path), shared=True, size=hidden.numel(), dtype=hidden.dtype).copy_(hidden.reshape(-1))
        storage.resize_(0)  # whoever holds the tensor holds no memory now
        one.spilled = (hidden, path)

    def _take_back(self, one: _Pass[Any], hidden: Tensor) -> None:
        if one.spilled is None:
            self._held -= hidden.nbytes
            return
        hidden.untyped_storage().resize_(hidden.nbytes)
        hidden.copy_(torch.from_file(str(one.spilled[1]), size=hidden.numel(), dtype=hidden.dtype).view_as(hidden))
        one.spilled[1].unlink()
        one.spilled = None
