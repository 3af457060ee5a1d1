"""Paths in a study of patching: what a sender writes for the clean prompt, read by one receiver alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from probes.analysis.effects import normalised_effect
from probes.answers import LanguageModel
from probes.interventions.paths import PathPatches, Place, places_before
from probes.studies.interventions.patching import POSITIONS, Patching, changed_groups, log_odds
from probes.values import LayerProfile, Reading

SENDERS = {"embeddings": "residual", "attention": "attention", "mlp": "mlp", "head": "heads"}
"""Kind of sender → the site of its results."""


@dataclass(frozen=True, kw_only=True)
class PathSettings:
    """Which paths are patched.

    Attributes:
        receivers: Where what senders write is read: `final` (the direct effect on the answer), `attention.k`, `mlp.k`
            or `head.k.h` of block k; `head.k.h.q`, `.k` or `.v`: its query, key or value alone; none: no paths.
        senders: Kinds of senders, each in all blocks before the receiver: some of `embeddings`, `attention`, `mlp`, and
            `head`: each head by itself.
        positions: Tokens at which senders write otherwise, a group as in `PatchingSettings`.

    Raises:
        ValueError: There is no such kind of sender, or group of tokens.
    """

    receivers: Sequence[str] = ()
    senders: Sequence[str] = ("embeddings", "attention", "mlp")
    positions: str = "all"

    def __post_init__(self) -> None:
        unknown = [name for name in self.senders if name not in SENDERS]
        if unknown or not self.senders:
            raise ValueError(f"Unknown senders {unknown}. There are {list(SENDERS)}. Set `study.paths.senders`.")
        if self.positions not in POSITIONS:
            raise ValueError(
                f"Unknown positions '{self.positions}'. There are {list(POSITIONS)}. Set `study.paths.positions`."
            )


@dataclass(frozen=True)
class PathPatching:
    """Patches paths between the prompts of a `Patching` within one model.

    Attributes:
        patching: The prompts and the model.
        settings: Which paths.
    """

    patching: Patching
    settings: PathSettings

    @property
    def lm(self) -> LanguageModel:
        """The model."""
        return self.patching.target

    def through(self, receiver: Place) -> dict[str, np.ndarray]:
        """Log-odds of the first option, for each sender by itself: kind of sender → `(senders, rows)`."""
        key = {"path": str(receiver), "senders": list(self.settings.senders), "positions": self.settings.positions}
        found = self.patching.kept.get({**key, **self.patching.questions_key}, lambda: self._compute(receiver))
        return {kind: log_odds(values) for kind, values in found.items()}

    def _compute(self, receiver: Place) -> dict[str, np.ndarray]:
        patching = self.patching
        senders = {kind: places_before(receiver, kind, self.lm) for kind in self.settings.senders}
        total = {
            kind: torch.zeros(len(places), patching.target_questions.rows, 2, dtype=torch.float64)
            for kind, places in senders.items()
        }
        batches = (patching.source_questions.batches, patching.target_questions.batches)
        for theirs, own in zip(*batches, strict=True):
            mask = changed_groups(own, theirs)[self.settings.positions]
            patches = PathPatches(self.lm, theirs, own, mask)
            for kind, places in senders.items():
                for number, sender in enumerate(places):
                    of_tokens = patches.log_probs_through([receiver], [sender])
                    total[kind][number].view(-1).index_add_(0, own.cells, of_tokens.double().cpu())
        return {kind: values.numpy() for kind, values in total.items()}

    def profiles(self, receiver: Place, task: str) -> Iterator[LayerProfile]:
        """Normalised effects of all senders over their layers; of heads, a profile for each head.

        Args:
            receiver: Where they are read.
            task: Kind of the pairs.
        """
        source, target = self.patching.answers()
        for kind, after in self.through(receiver).items():
            places = places_before(receiver, kind, self.lm)
            reading = Reading(self.lm.backbone.stacks[0], SENDERS[kind], "tokens")
            for head in sorted({place.head for place in places}):
                chosen = [number for number, place in enumerate(places) if place.head == head]
                yield LayerProfile(
                    quantity=f"path_to/{receiver}" + (f"/{task}" if kind == "head" else ""),
                    unit="share of the gap",
                    task=f"head {head}" if kind == "head" else task,
                    reading=reading,
                    layers=tuple(places[number].layer for number in chosen),
                    estimates=normalised_effect(after[chosen] - target, source - target),
                )
