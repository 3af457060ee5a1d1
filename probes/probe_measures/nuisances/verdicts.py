"""Does a score stand, is it explained by a nuisance, or can the rows not tell? Three words, by fixed rules."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from probes.values import SIGNIFICANCE_LEVEL

STANDS = "stands"
NOT_IDENTIFIABLE = "not identifiable"
EXPLAINED = "explained by {nuisance}"

COINCIDES = 0.95
"""From this score on, a nuisance and the label coincide: too few rows differ in one and not in the other."""
MOST = 0.5
"""Share of a score above chance that makes most of it."""
LITTLE = 0.25
"""A nuisance that reaches less than this share of a score above chance cannot explain it."""


class Scored(NamedTuple):
    """A score, what it would be by chance, and its p by itself; p is NaN where chance does not vary."""

    value: float
    chance: float
    p: float

    @property
    def excess(self) -> float:
        """By how much it exceeds chance."""
        return self.value - self.chance

    @property
    def above_chance(self) -> bool:
        """Whether p is below the level of significance."""
        return self.p < SIGNIFICANCE_LEVEL


@dataclass(frozen=True)
class Verdict:
    """One of the three words, or none where there is nothing to explain, and why.

    Attributes:
        word: `stands`, `explained by …`, `not identifiable`, or empty.
        reason: The numbers that decide, in a few words.
    """

    word: str
    reason: str

    def __str__(self) -> str:
        return "; ".join(filter(None, (self.word, self.reason)))


def verdict_of(raw: Scored, residual: Scored, alone: Scored, nuisance: str) -> Verdict:
    """Judge one score.

    In this order:

    1. a score that is not above chance gets no verdict;
    2. label and nuisance coincide if the nuisance alone scores 0.95 or more: `not identifiable`;
    3. it `stands` if most of it, half of what exceeds chance, remains after nuisances are regressed out and is above
       chance; or if nuisances alone reach less than a quarter of it;
    4. it is `explained by` the strongest nuisance if most of it is lost, and nuisances alone reach most of it;
    5. otherwise the rows cannot tell: `not identifiable`.

    Args:
        raw: The probe's score.
        residual: Its score after nuisances are regressed out.
        alone: The best score of nuisances alone on the same rows.
        nuisance: Name of the strongest nuisance.

    Example:
        >>> tag = verdict_of(Scored(0.9, 0.5, 0.005), Scored(0.52, 0.5, 0.3), Scored(0.9, 0.5, 0.005), "first word")
        >>> tag.word
        'explained by first word'
    """
    if not raw.above_chance or not raw.excess > 0:
        return Verdict("", "the score is not above chance")
    kept, share = residual.excess / raw.excess, alone.excess / raw.excess
    if alone.value >= COINCIDES:
        return Verdict(NOT_IDENTIFIABLE, f"{nuisance} alone scores {alone.value:.2f}")
    reason = f"{max(kept, 0):.0%} of the score above chance remains; nuisances alone reach {max(share, 0):.0%} of it"
    if (residual.above_chance and kept >= MOST) or share < LITTLE:
        return Verdict(STANDS, reason)
    if kept < MOST and share >= MOST and alone.above_chance:
        return Verdict(EXPLAINED.format(nuisance=nuisance), reason)
    return Verdict(NOT_IDENTIFIABLE, reason)
