"""What a model loses of its recall of lists when a channel is removed, against other components of the same head."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from probes.analysis.composition import WrittenComponents
from probes.analysis.effects import effect_estimates, log_odds_of_right
from probes.answers import LanguageModel, Questions
from probes.backbones.heads import BlockHeads, without_directions
from probes.interventions import KeptArrays, Streams
from probes.progress import tracked
from probes.seeds import derive_seed
from probes.studies.interventions.answered import ANSWERS_NATS
from probes.studies.interventions.composing import Channel
from probes.values import LayerProfile

RECALL = "list recall"
ALL_CHANNELS = "all of these"
FEWEST_OTHERS = 2
Component = tuple[tuple[int, int], int]
"""Layer and head that write, and the number of the component."""


@dataclass(frozen=True)
class Removal:
    """Removes components of heads from a model, and asks for the missing items of lists.

    Attributes:
        lm: The model.
        blocks: Its heads.
        written: Their components.
        questions: Lists, with their items as options.
        missing: Which option is right, int64, shape `(rows,)`.
        kept: Where results are kept, by the model.
        draws: Random other components of the same heads, two or more, to compare with.
        seed: Decides which.
    """

    lm: LanguageModel
    blocks: Sequence[BlockHeads]
    written: Sequence[WrittenComponents]
    questions: Questions
    missing: Tensor
    kept: KeptArrays
    draws: int
    seed: int

    def unedited(self) -> np.ndarray:
        """Log-probabilities of the items, shape `(rows, items)`."""
        return self._kept((), None)

    def lost(self, removed: Sequence[Component], streams: Streams | None = None) -> np.ndarray:
        """By how much the log-odds of the missing item fall when components are removed, nats, shape `(rows,)`."""
        labels = self.missing.numpy()
        before, after = (log_odds_of_right(own, labels) for own in (self.unedited(), self._kept(removed, streams)))
        return before - after

    def other_components(self, channels: Sequence[Channel], taken: Sequence[Channel]) -> list[list[Component]]:
        """For each draw, another component of the head of each channel; none of them is one of those taken.

        Raises:
            ValueError: A head has no two others.
        """
        no_others = {(channel.writer, channel.component) for channel in taken}
        by_channel = []
        for channel in channels:
            rank = self.written[channel.writer[0] - 1].sizes.shape[1]
            others = [i for i in range(rank) if (channel.writer, i) not in no_others]
            if len(others) < FEWEST_OTHERS:
                raise ValueError(
                    f"Head {channel.writer[1]} of layer {channel.writer[0]} has {len(others)} components besides the "
                    f"channels; at least {FEWEST_OTHERS} are compared with. Set `study.remove` lower."
                )
            draw = random.Random(derive_seed(self.seed, "other components", channel.name))
            drawn = draw.sample(others, min(self.draws, len(others)))
            by_channel.append([(channel.writer, component) for component in drawn])
        return [list(components) for components in zip(*by_channel, strict=False)]

    def profiles(self, channels: Sequence[Channel]) -> Iterator[LayerProfile]:
        """What each channel takes away, and all of them together.

        Yields:
            `channel_removal/effect`, the mean drop of the log-odds of the missing item; and
            `channel_removal/beyond_others`, less that of other components of the same heads.
        """
        labels = self.missing.numpy()
        groups = [(channel.name, [channel]) for channel in channels]
        if len(channels) > 1:
            groups.append((ALL_CHANNELS, list(channels)))
        streams = Streams.at_input(self.lm, self.questions)
        for name, own in tracked(groups, "channels removed", total=len(groups)):
            first = min(channel.writer[0] for channel in own)
            if first - 1 < streams.layer:
                streams = Streams.at_input(self.lm, self.questions)
            streams = streams.carried(first - 1)
            effect = self.lost([(channel.writer, channel.component) for channel in own], streams)[None]
            others = [self.lost(components, streams) for components in self.other_components(own, channels)]
            common = {"unit": ANSWERS_NATS, "task": name, "layers": (None,)}
            yield LayerProfile(
                quantity="channel_removal/effect", estimates=effect_estimates(effect, labels, note=""), **common
            )
            beyond = effect_estimates(
                effect, labels, np.stack(others)[:, None], alternative="greater", note="", draws_are="other components"
            )
            yield LayerProfile(quantity="channel_removal/beyond_others", estimates=beyond, **common)

    def _kept(self, removed: Sequence[Component], streams: Streams | None) -> np.ndarray:
        key = {
            "recall": self.questions.digest,
            "removed": sorted([*writer, component] for writer, component in removed),
        }
        return self.kept.get(key, partial(self._compute, removed, streams))["log_probs"]

    def _compute(self, removed: Sequence[Component], streams: Streams | None) -> Mapping[str, np.ndarray]:
        directions: dict[tuple[int, int], list[Tensor]] = {}
        for (layer, head), component in removed:
            own = self.written[layer - 1].directions[head, :, component]
            directions.setdefault((layer - 1, head), []).append(own)
        with without_directions(self.blocks, {place: torch.stack(own, 1) for place, own in directions.items()}):
            found = self.lm.log_probs(self.questions) if streams is None else streams.log_probs()
        return {"log_probs": found.numpy()}


def recall_profiles(removal: Removal) -> Iterator[LayerProfile]:
    """How well the unedited model recalls: the log-odds of the missing item, and its accuracy."""
    labels, log_probs = removal.missing.numpy(), removal.unedited()
    rows = {
        "answer/log_odds": (ANSWERS_NATS, log_odds_of_right(log_probs, labels), 0.0),
        "answer/accuracy": (
            "share of rows", (log_probs.argmax(-1) == labels).astype(float), 1 / removal.questions.options,
        ),
    }  # fmt: skip
    for quantity, (unit, values, chance) in rows.items():
        estimates = effect_estimates(values[None], labels, null=chance, alternative="greater", note="")
        yield LayerProfile(quantity=quantity, unit=unit, task=RECALL, layers=(None,), estimates=estimates)
