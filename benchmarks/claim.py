"""One claim: two ways of doing the same work, measured in turn in one process, and the ratio of their medians."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch


@dataclass(frozen=True)
class Claim:
    """A measured ratio beside the one to reach.

    Attributes:
        work: What both do.
        against: What ours is compared with.
        ours: Median of ours.
        peer: Median of the peer, scaled up where it did a stated share of the work; or the limit that ours may take.
        target: Ratio to reach.
        note: Sizes, and what share of the work the peer did.
        unit: Of `ours` and `peer`.
        at_most: The ratio is ours / peer and may be `target` at most; else it is peer / ours, at least `target`.
    """

    work: str
    against: str
    ours: float
    peer: float
    target: float
    note: str
    unit: str = "s"
    at_most: bool = False

    @property
    def ratio(self) -> float:
        return self.ours / self.peer if self.at_most else self.peer / self.ours

    @property
    def passed(self) -> bool:
        return self.ratio <= self.target if self.at_most else self.ratio >= self.target

    @property
    def bound(self) -> str:
        return f"{'≤' if self.at_most else '≥'} {self.target:g}"

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
            times.append(timed(function))
    return statistics.median(seconds[0]), statistics.median(seconds[1])


def against_slow(
    ours: Callable[[], object], *peers: Callable[[], object], rounds: int = 5, warm_up: bool = True
) -> tuple[float, ...]:
    """Median seconds of ours over `rounds`, and of slow peers called once each among them."""
    if warm_up:
        ours()
    seconds = [timed(ours) for _ in range(rounds // 2)]
    slow = [timed(peer) for peer in peers]
    seconds += [timed(ours) for _ in range(rounds - rounds // 2)]
    return statistics.median(seconds), *slow


def timed(function: Callable[[], object]) -> float:
    """Seconds of one call, a GPU's work included."""
    gc.collect()
    _wait()
    start = time.perf_counter()
    function()
    _wait()
    return time.perf_counter() - start


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def show(claims: list[Claim]) -> None:
    """One line a claim, for a script run by itself."""
    for claim in claims:
        print(
            f"{'pass' if claim.passed else 'FAIL'} {claim.ratio:.2f} ({claim.bound}) {claim.work}, {claim.against}: "
            f"{claim.ours:.3g} {claim.unit} against {claim.peer:.3g} {claim.unit}; {claim.note}"
        )
