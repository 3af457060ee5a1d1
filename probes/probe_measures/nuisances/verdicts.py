"""Does a score stand, is it explained by a nuisance, or can the rows not tell? Three words, by fixed rules."""

from __future__ import annotations

from dataclasses import dataclass

from probes.probe_measures.main_scores import Scored

STANDS = "stands"
NOT_IDENTIFIABLE = "not identifiable"
EXPLAINED = "explained by {nuisance}"

ASKED = ", which the task asks for"
"""Ends the reason of a verdict against a score that is meant to be one of the nuisance."""
COINCIDES = 0.95
"""From this score on, a nuisance and the label coincide: too few rows differ in one and not in the other."""
MOST = 0.5
"""Share of a score above chance that makes most of it."""
LITTLE = 0.25
"""A nuisance that reaches less than this share of a score above chance cannot explain it."""


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


def verdict_of(raw: Scored, residual: Scored, alone: Scored, nuisance: str, *, asked: bool = False) -> Verdict:
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
        alone: The best score of one nuisance, or of all, on the same rows: what they explain at most.
        nuisance: Name of the strongest nuisance.
        asked: Whether the task asks for this nuisance, which the reason then says.

    Example:
        >>> tag = verdict_of(Scored(0.9, 0.5, 0.005), Scored(0.52, 0.5, 0.3), Scored(0.9, 0.5, 0.005), "first word")
        >>> tag.word
        'explained by first word'
    """
    if not raw.above_chance or not raw.excess > 0:
        return Verdict("", "the score is not above chance")
    kept, share = residual.excess / raw.excess, alone.excess / raw.excess
    if alone.value >= COINCIDES:
        return Verdict(NOT_IDENTIFIABLE, f"{nuisance} alone scores {alone.value:.2f}{ASKED * asked}")
    reason = f"{max(kept, 0):.0%} of the score above chance remains; nuisances alone reach {max(share, 0):.0%} of it"
    if (residual.above_chance and kept >= MOST) or share < LITTLE:
        return Verdict(STANDS, reason)
    if kept < MOST and share >= MOST and alone.above_chance:
        return Verdict(EXPLAINED.format(nuisance=nuisance), reason + ASKED * asked)
    return Verdict(NOT_IDENTIFIABLE, reason)


def span_verdict(raw: Scored, without: Scored, random: Scored, *, span: str) -> Verdict:
    """Judge a score by that of probes trained without a span of the prompts.

    It `stands` if most of what exceeds chance remains without the span; it is `explained by` the span if most is lost
    with it, and most remains without a random span of equal length; otherwise the prompts cannot tell.

    Args:
        raw: The score with whole prompts.
        without: Without the span.
        random: Without a random span of equal length.
        span: Name of the span.
    """
    if not raw.above_chance or not raw.excess > 0:
        return Verdict("", "the score is not above chance")
    kept, kept_at_random = without.excess / raw.excess, random.excess / raw.excess
    reason = f"{max(kept, 0):.0%} of the score above chance remains, {max(kept_at_random, 0):.0%} without a random span"
    if without.above_chance and kept >= MOST:
        return Verdict(STANDS, reason)
    if kept < MOST <= kept_at_random:
        return Verdict(EXPLAINED.format(nuisance=span), reason)
    return Verdict(NOT_IDENTIFIABLE, reason)
