"""Which attention heads carry the answer? A sparse mask of heads, learned on pairs of prompts, judged on others."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from probes.analysis import LayerAnalysis, result_rows
from probes.analysis.effects import effect_estimates, normalised_effect
from probes.answers import LanguageModel, Questions
from probes.backbones import FrozenBackbone
from probes.interventions import KeptArrays, PromptPair, check_kinds, generated_pairs
from probes.interventions.heads import HeadSwap, contradictory_signs, learn_gates
from probes.progress import tracked
from probes.report import path_lines, print_screen, report_findings, write_report, write_results
from probes.seeds import derive_seed
from probes.studies.interventions.answered import kept_arrays, loaded_language_model
from probes.studies.interventions.patching import POSITIONS, changed_groups, pair_questions
from probes.studies.run_context import RunContext
from probes.values import Estimates, LayerProfile, Reading, RunNames

OPEN = 0.5
"""A head belongs to the mask if its gate is above."""
CONTROL = "contradictory_pairs"
_SHARE = "share of the gap"
_PAIRS = "study.heads.pairs"


@dataclass(frozen=True, kw_only=True)
class HeadSettings:
    """How masks of heads are learned and judged.

    Attributes:
        pairs: Kinds of generated pairs: some of `agreement`, `sentiment`, `facts`, `boxes`.
        train: Pairs on which a mask is learned, at most.
        test: Other pairs on which it is judged, at most.
        positions: The tokens at which heads are patched: `changed`, `between`, `last` or `all`, as in `study=patch`.
        penalty: Share of the gap that a head has to close to be kept.
        steps: Steps of learning.
        learning_rate: Of Adam; gates lie between 0 and 1.
        pairs_per_step: Training pairs of one step at most.
        random_sets: Random sets of as many heads to compare with.
        control: Also learn masks from pairs that contradict each other, which should keep no head.
        tokens_per_batch: Tokens of one pass at most.

    Raises:
        ValueError: A field is out of its range.
    """

    pairs: Sequence[str] = ("agreement",)
    train: int = 32
    test: int = 32
    positions: str = "all"
    penalty: float = 0.02
    steps: int = 40
    learning_rate: float = 0.05
    pairs_per_step: int = 16
    random_sets: int = 39
    control: bool = True
    tokens_per_batch: int = 1024

    def __post_init__(self) -> None:
        check_kinds(self.pairs, key=_PAIRS)
        if self.positions not in POSITIONS:
            raise ValueError(
                f"Unknown positions '{self.positions}'. There are {list(POSITIONS)}. Set `study.heads.positions`."
            )
        bounds = {"train": 4, "test": 4, "steps": 1, "pairs_per_step": 2, "random_sets": 2, "tokens_per_batch": 1}
        for key, least in bounds.items():
            if getattr(self, key) < least:
                raise ValueError(f"`study.heads.{key}` must be at least {least}; got {getattr(self, key)}.")
        if self.penalty <= 0 or self.learning_rate <= 0:
            raise ValueError(
                f"`study.heads.penalty` and `study.heads.learning_rate` must be above 0; got {self.penalty} and "
                f"{self.learning_rate}."
            )


@dataclass(frozen=True, kw_only=True)
class HeadsStudy:
    """Masks of heads for kinds of generated pairs (desiderata-based component masking).

    Attributes:
        name: Names the study in `results.csv`.
        heads: How masks are learned and judged.
    """

    name: str = "heads"
    heads: HeadSettings = field(default_factory=HeadSettings)

    def run(self, context: RunContext, *, backbone: Callable[[], FrozenBackbone], analysis: LayerAnalysis) -> float:
        """Learn a mask for each kind of pairs.

        Args:
            context: Logger, seed, folders, config.
            backbone: Loads a causal language model.
            analysis: Holds all findings.

        Returns:
            Share of the gap that the chosen heads close on test pairs, mean over kinds.

        Raises:
            ValueError: The model has no language-model head, its heads are not known one by one, or too few pairs have
                prompts of equally many tokens.
        """
        with context.logged():
            with context.stage("backbone"):
                lm = loaded_language_model(backbone)
            names = RunNames(study=self.name, backbone=lm.backbone.name, suite="generated pairs")
            kept, effects = kept_arrays(lm, context.cache_dir), []
            for kind in tracked(self.heads.pairs, "kinds of pairs", total=len(self.heads.pairs)):
                with context.stage("masks"):
                    task = HeadMasks.of(lm, kind, self.heads, kept, context.seed)
                    profiles = list(task.profiles())
                analysis.table.add(profiles)
                effects += [p.estimates.values[0] for p in profiles if (p.quantity, p.control) == ("mask/effect", "")]
                write_results(result_rows(analysis.table.profiles, names), context.output_dir / "results.csv")
            with context.stage("report"):
                report = report_findings(context.output_dir, analysis.finish(), names=names, logger=context.logger)
                known = np.isfinite(effects).any()
                objective = context.log_objective(float(np.nanmean(effects)) if known else math.nan)
        page = write_report(context.output_dir)
        picture = next(iter(report.heatmaps), None)  # none where no pairs are told apart
        print_screen(*path_lines(report=page, picture=picture, everything=context.output_dir))
        return objective


@dataclass(frozen=True)
class HeadMasks:
    """The masks of one kind of pairs.

    Attributes:
        lm: The model.
        kind: Name of the pairs.
        train: Pairs to learn on.
        test: Other pairs.
        settings: How masks are learned and judged.
        kept: Where results are kept.
        seed: Decides the random sets.
    """

    lm: LanguageModel
    kind: str
    train: Sequence[PromptPair]
    test: Sequence[PromptPair]
    settings: HeadSettings
    kept: KeptArrays
    seed: int

    @classmethod
    def of(cls, lm: LanguageModel, kind: str, settings: HeadSettings, kept: KeptArrays, seed: int) -> HeadMasks:
        """Draw the pairs; no pair is in both parts.

        Raises:
            ValueError: Too few are left for the test.
        """
        pairs = generated_pairs(kind, lm.backbone, settings.train + settings.test, seed=seed, key=_PAIRS)
        train = pairs[: min(settings.train, len(pairs) // 2)]
        return cls(lm, kind, train, pairs[len(train) : len(train) + settings.test], settings, kept, seed)

    def profiles(self) -> Iterator[LayerProfile]:
        """Gates, the number of heads in the mask, and the share of the gap that it closes on test pairs."""
        answers = self._kept("answers", lambda: dict(zip(("none", "every"), self._ends(), strict=True)))
        none, every = answers["none"], answers["every"]
        source = self._kept("source", lambda: {"log_odds": self._of_source()})["log_odds"]
        gap = source - none
        for name, values in (("source", source), ("target", none)):
            yield self._number(f"answer/{name}_log_odds", _over_rows(values), "nats")
        yield self._number("mask/all_heads_effect", normalised_effect((every - none)[None], gap), _SHARE)
        if np.isnan(normalised_effect(gap[None], gap).values).any():
            return  # the model does not tell the two prompts apart
        for control in ("", CONTROL) if self.settings.control else ("",):
            gates = self._gates(control)
            chosen = gates > OPEN
            reading = Reading(self.lm.backbone.stacks[0], "heads", self.settings.positions)
            size = Estimates(np.array([float(chosen.sum())]), len(self.train))
            yield self._number("mask/size", size, "heads", control)
            yield from self._judged(chosen, none, gap, control)
            for head in range(gates.shape[1]):
                yield LayerProfile(
                    quantity=f"mask_gate/{self.kind}",
                    unit="1: head is patched",
                    task=f"head {head}",
                    reading=reading,
                    control=control,
                    layers=tuple(range(1, len(gates) + 1)),
                    estimates=Estimates(gates[:, head], len(self.train)),
                )

    def _judged(self, chosen: np.ndarray, none: np.ndarray, gap: np.ndarray, control: str) -> Iterator[LayerProfile]:
        """The chosen heads' effect, with that of random sets as its null."""
        found = self._kept("judged", lambda: self._judge(chosen), chosen=chosen.astype(int).tolist())
        effect = normalised_effect((found["chosen"] - none)[None], gap)
        drawn = (found["random"] - none).mean(-1, keepdims=True) / gap.mean()  # (sets, 1)
        tested = chosen.any()
        effect = replace(effect, null=drawn if tested else None, alternative="greater")
        yield self._number("mask/effect", effect, _SHARE, control)
        if tested and not control:
            others = normalised_effect((found["others"] - none)[None], gap)
            yield self._number("mask/effect_of_all_others", others, _SHARE)

    def _judge(self, chosen: np.ndarray) -> dict[str, np.ndarray]:
        """Log-odds on test pairs with the chosen heads patched, with all others, and with random sets of equal size."""
        swaps = self._swaps(self.test)
        size, total = int(chosen.sum()), chosen.size
        rng = np.random.default_rng(derive_seed(self.seed, "random heads", self.kind))
        sets = [rng.permutation(total)[:size] for _ in range(self.settings.random_sets if size else 0)]
        random = [np.isin(np.arange(total), own).reshape(chosen.shape) for own in sets]
        drawn = [self._log_odds(swaps, own) for own in random]
        return {
            "chosen": self._log_odds(swaps, chosen),
            "others": self._log_odds(swaps, ~chosen),
            "random": np.stack(drawn) if drawn else np.empty((0, len(self.test))),
        }

    def _gates(self, control: str) -> np.ndarray:
        """Learned gates, shape `(layers, heads)`."""
        return self._kept("gates", lambda: {"gates": self._learn(control)}, control=control)["gates"]

    def _learn(self, control: str) -> np.ndarray:
        settings = self.settings
        per_step = settings.pairs_per_step
        parts = [self.train[i : i + per_step] for i in range(0, len(self.train), per_step)]
        swaps = [swap for part in parts for swap in self._swaps(part)]
        scale = torch.cat([swap.gaps for swap in swaps]).mean()
        signs = contradictory_signs if control else torch.ones_like
        wanted = [signs(swap.gaps).to(scale) / scale for swap in swaps]
        gates = learn_gates(
            self.lm, swaps, wanted, penalty=settings.penalty, steps=settings.steps, learning_rate=settings.learning_rate
        )
        return gates.double().numpy()

    def _questions(self, pairs: Sequence[PromptPair]) -> tuple[Questions, Questions]:
        """What the model reads of pairs: the clean prompts, and the corrupted ones."""
        tokens = self.settings.tokens_per_batch
        clean, corrupted = (
            pair_questions(self.lm, pairs, side, tokens_per_batch=tokens) for side in ("clean", "corrupted")
        )
        return clean, corrupted

    @cached_property
    def _read(self) -> list[list[str]]:
        """Digests of the tokens of both parts."""
        return [[questions.digest for questions in self._questions(part)] for part in (self.train, self.test)]

    def _swaps(self, pairs: Sequence[PromptPair]) -> list[HeadSwap]:
        source, target = self._questions(pairs)
        return [
            HeadSwap.of(self.lm, theirs, own, changed_groups(own, theirs)[self.settings.positions])
            for theirs, own in zip(source.batches, target.batches, strict=True)
        ]

    def _ends(self) -> tuple[np.ndarray, np.ndarray]:
        """Log-odds on test pairs without patches, and with all heads patched."""
        swaps, shape = self._swaps(self.test), (self.lm.backbone.num_layers, self.lm.backbone.num_heads)
        return self._log_odds(swaps, np.zeros(shape, dtype=bool)), self._log_odds(swaps, np.ones(shape, dtype=bool))

    def _of_source(self) -> np.ndarray:
        clean, _ = self._questions(self.test)
        found = self.lm.log_probs(clean).numpy()
        return found[:, 0] - found[:, 1]

    def _log_odds(self, swaps: Sequence[HeadSwap], heads: np.ndarray) -> np.ndarray:
        """Log-odds of the source's answer with some heads patched, shape `(test pairs,)`."""
        total = torch.zeros(len(self.test), dtype=torch.float64)
        for swap in swaps:
            own: Tensor = swap.log_odds(self.lm, torch.from_numpy(heads).float())
            total.index_add_(0, swap.batch.rows, own.double().cpu())
        return total.numpy()

    def _kept(self, what: str, compute: Callable[[], dict[str, np.ndarray]], **more: object) -> dict[str, np.ndarray]:
        settings = {name: value for name, value in vars(self.settings).items() if name not in ("pairs", "control")}
        return self.kept.get(
            {"heads": what, "of": self._read, "settings": settings, "seed": self.seed, **more}, compute
        )

    def _number(self, quantity: str, estimates: Estimates, unit: str, control: str = "") -> LayerProfile:
        return LayerProfile(
            quantity=quantity, unit=unit, task=self.kind, layers=(None,), estimates=estimates, control=control
        )


def _over_rows(values: np.ndarray) -> Estimates:
    return effect_estimates(values[None], np.zeros(len(values), dtype=int))
