"""One claim of speed: two ways of doing the same work, timed in turn in one process, and the ratio of their medians."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Claim:
    """A measured ratio beside the one to reach.

    Attributes:
        work: What both do.
        against: What ours is compared with.
        ours_seconds: Median of ours.
        peer_seconds: Median of the peer, scaled up where it did a stated share of the work.
        target: Ratio peer / ours to reach.
        note: Sizes, and what share of the work the peer did.
    """

    work: str
    against: str
    ours_seconds: float
    peer_seconds: float
    target: float
    note: str

    @property
    def ratio(self) -> float:
        return self.peer_seconds / self.ours_seconds

    @property
    def passed(self) -> bool:
        return self.ratio >= self.target

    def as_dict(self) -> dict[str, object]:
        return asdict(self) | {"ratio": self.ratio, "passed": self.passed}


def alternate(
    ours: Callable[[], object], peer: Callable[[], object], *, rounds: int, warm_up: bool = True
) -> tuple[float, float]:
    """Median seconds of two functions, called in turn; with `warm_up` both are called once before, untimed."""
    if warm_up:
        ours(), peer()
    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds):
        for function, times in zip((ours, peer), seconds, strict=True):
            gc.collect()
            start = time.perf_counter()
            function()
            times.append(time.perf_counter() - start)
    return statistics.median(seconds[0]), statistics.median(seconds[1])
