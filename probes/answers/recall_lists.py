"""Generated lists from which a model recalls the item that is missing: content decides nothing, the list everything."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from probes.answers.examples import answer_ids
from probes.answers.questions import Questions
from probes.backbones import FrozenBackbone
from probes.seeds import derive_seed

_NAMES = ("Anna", "Mark", "Sarah", "Tom", "Laura", "Peter", "Julia", "David")
_ITEMS = (
    "key", "coin", "ring", "book", "ball", "pen", "cup", "watch", "lamp", "hat", "knife", "shirt", "phone", "bag",
    "box", "brush", "candle", "chair", "clock", "fork", "mirror", "pillow", "plate", "rope", "spoon", "towel",
)  # fmt: skip


class RecallList(NamedTuple):
    """A prompt that names some items, and then all but one of them again.

    Attributes:
        prompt: The text.
        items: All items, in the order of the list.
        missing: Place in `items` of the one that comes next.
    """

    prompt: str
    items: tuple[str, ...]
    missing: int


def recall_lists(count: int, *, items: int, seed: int) -> list[RecallList]:
    """Lists like those of Merullo et al. 2024; every place of the list is the missing one equally often.

    Args:
        count: How many.
        items: Items of each list.
        seed: Decides names, items and their order.

    Raises:
        ValueError: There are fewer than 2 items, more than there are words for, or too few lists for every place to be
            the missing one twice.

    >>> recall_lists(6, items=3, seed=0)[0].prompt
    'Anna has to buy a key, a mirror and a phone. In the shop, Anna takes the phone, the mirror and the'
    """
    if not 2 <= items <= len(_ITEMS):
        raise ValueError(f"Lists have 2 to {len(_ITEMS)} items; got {items}. Set `study.recall_items`.")
    if count < 2 * items:
        raise ValueError(
            f"{count} lists of {items} items are too few: each place has to be the missing one twice. Set "
            f"`study.recall_lists` to {2 * items} or more."
        )
    draw = random.Random(derive_seed(seed, "recall lists"))
    lists = []
    for row in range(count):
        name, chosen, missing = draw.choice(_NAMES), draw.sample(_ITEMS, items), row % items
        named_again = [f"the {item}" for place, item in enumerate(chosen) if place != missing]
        draw.shuffle(named_again)
        named = [f"a {item}" for item in chosen]
        prompt = (
            f"{name} has to buy {', '.join(named[:-1])} and {named[-1]}. In the shop, {name} takes "
            f"{', '.join(named_again)} and the"
        )
        lists.append(RecallList(prompt, tuple(chosen), missing))
    return lists


def recall_questions(
    backbone: FrozenBackbone, lists: Sequence[RecallList], *, tokens_per_batch: int = 1024
) -> tuple[Questions, Tensor]:
    """The lists as questions whose options are their items, and which of them is right, int64, `(rows,)`."""
    prompts = [own.prompt for own in lists]
    options = [
        answer_ids(backbone, [own.items[place] for own in lists], prompts) for place in range(len(lists[0].items))
    ]
    ids = backbone.tokenize(prompts).ids
    answers = list(zip(*options, strict=True))
    questions = Questions.of(ids, answers, tokens_per_batch=tokens_per_batch, pad_id=backbone.pad_id)
    return questions, torch.tensor([own.missing for own in lists])
