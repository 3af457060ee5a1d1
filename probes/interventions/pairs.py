"""Generated pairs of prompts that differ in one fact and so in their answer, for activation patching."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations, product

from probes.backbones import FrozenBackbone
from probes.seeds import derive_seed

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PromptPair:
    """A clean prompt and a corrupted one, and the answer to each."""

    clean: str
    corrupted: str
    clean_answer: str
    corrupted_answer: str

    @property
    def reversed(self) -> PromptPair:
        """The same with the roles exchanged."""
        return PromptPair(self.corrupted, self.clean, self.corrupted_answer, self.clean_answer)


_PEOPLE = ("author", "pilot", "doctor", "farmer", "lawyer", "teacher", "guard", "waiter")
_THINGS = ("table", "car", "house", "door", "tree", "window")
_PRAISE = ("great", "wonderful", "excellent", "amazing", "fantastic", "lovely")
_BLAME = ("terrible", "awful", "horrible", "boring", "bad", "poor")
_WORKS = ("movie", "book", "meal", "hotel", "concert", "game")
_CAPITALS = {
    "France": "Paris", "Italy": "Rome", "Germany": "Berlin", "Spain": "Madrid", "Japan": "Tokyo", "Russia": "Moscow",
    "Egypt": "Cairo", "Greece": "Athens", "China": "Beijing", "England": "London",
}  # fmt: skip
_OBJECTS = ("key", "coin", "ring", "book", "ball", "pen", "cup", "watch")


def _agreement() -> list[PromptPair]:
    return [
        PromptPair(f"The {one} near the {thing}{s}", f"The {one}s near the {thing}{s}", "was", "were")
        for one, thing, s in product(_PEOPLE, _THINGS, ("", "s"))
    ]


def _sentiment() -> list[PromptPair]:
    return [
        PromptPair(
            f"Review: The {work} was {good}.\nIs this review positive or negative? Answer:",
            f"Review: The {work} was {bad}.\nIs this review positive or negative? Answer:",
            "positive",
            "negative",
        )
        for work, good, bad in product(_WORKS, _PRAISE, _BLAME)
    ]


def _facts() -> list[PromptPair]:
    return [
        PromptPair(f"The capital of {one} is", f"The capital of {other} is", _CAPITALS[one], _CAPITALS[other])
        for one, other in combinations(_CAPITALS, 2)
    ]


def _boxes() -> list[PromptPair]:
    return [
        PromptPair(
            f"Box A contains the {one}. Box B contains the {other}. Box {asked} contains the",
            f"Box A contains the {other}. Box B contains the {one}. Box {asked} contains the",
            *((one, other) if asked == "A" else (other, one)),
        )
        for one, other, asked in ((*two, box) for two in combinations(_OBJECTS, 2) for box in "AB")
    ]


PAIRS: dict[str, Callable[[], list[PromptPair]]] = {
    "agreement": _agreement,
    "sentiment": _sentiment,
    "facts": _facts,
    "boxes": _boxes,
}
"""Kind → all pairs: number of the subject, polarity of an opinion, capitals of countries, and contents of boxes.

No two prompts are paired twice, in either order: a pair and its reverse say the same.
"""


def check_kinds(kinds: Sequence[str], *, key: str) -> None:
    """Refuse kinds of pairs that there are not.

    Args:
        kinds: Some of `PAIRS`.
        key: The config key that names them, for messages.

    Raises:
        ValueError: One is not among `PAIRS`, or there is none.
    """
    unknown = [kind for kind in kinds if kind not in PAIRS]
    if unknown or not kinds:
        raise ValueError(
            f"Wanted one or more kinds of pairs; got {list(kinds)}. There are {', '.join(PAIRS)}. Set `{key}`."
        )


def generated_pairs(kind: str, backbone: FrozenBackbone, count: int, *, seed: int, key: str) -> list[PromptPair]:
    """Pairs whose two prompts have equally many tokens, every second one with the roles exchanged.

    If there are fewer than asked for, all of them are taken, and the log says how many.

    Args:
        kind: One of `PAIRS`.
        backbone: Its tokenizer decides which pairs are left.
        count: Pairs at most.
        seed: Decides which are drawn.
        key: The config key that names the kinds, for messages.

    Raises:
        ValueError: There is no such kind, or fewer than 4 pairs are left.
    """
    check_kinds([kind], key=key)
    everything = PAIRS[kind]()
    random.Random(derive_seed(seed, "pairs", kind)).shuffle(everything)
    lengths = [list(map(len, backbone.tokenize([pair.clean, pair.corrupted]).ids)) for pair in everything]
    kept = [pair for pair, (clean, corrupted) in zip(everything, lengths, strict=True) if clean == corrupted]
    if len(kept) < 4:
        raise ValueError(
            f"Only {len(kept)} of {len(everything)} pairs '{kind}' have prompts of equally many tokens in "
            f"'{backbone.name}'. Leave them out of `{key}`."
        )
    if len(kept) < count:
        _log.warning(
            "%d pairs '%s' have prompts of equally many tokens in '%s'; %d were asked for.",
            len(kept), kind, backbone.name, count,
        )  # fmt: skip
    return [pair.reversed if number % 2 else pair for number, pair in enumerate(kept[:count])]
