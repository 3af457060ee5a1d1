"""Where is the answer carried? Activations of a clean prompt, or of another model, patched in layer by layer."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np

from probes.analysis import LayerAnalysis, result_rows
from probes.analysis.effects import effect_estimates, normalised_effect
from probes.answers import LanguageModel
from probes.backbones import FrozenBackbone
from probes.backbones.fingerprint import fingerprint
from probes.interventions import generated_pairs
from probes.interventions.paths import Place
from probes.progress import tracked
from probes.report import layer_table, path_lines, print_screen, report_findings, write_report, write_results
from probes.studies.interventions.answered import edited_layers, kept_arrays, loaded_language_model
from probes.studies.interventions.patching import PATCHED_PAIRS, Patching, PatchingSettings, pair_questions
from probes.studies.interventions.path_patching import PathPatching, PathSettings
from probes.studies.run_context import RunContext
from probes.values import LayerProfile, Reading, RunNames

BETWEEN_MODELS = ("last", "all")


@dataclass(frozen=True, kw_only=True)
class PatchStudy:
    """Activation patching on generated pairs of prompts, and between two models on the same prompts.

    Attributes:
        name: Names the study in `results.csv`.
        patching: What is patched, and where.
        paths: Which paths between two places are patched.
    """

    name: str = "patch"
    patching: PatchingSettings = field(default_factory=PatchingSettings)
    paths: PathSettings = field(default_factory=PathSettings)

    def run(
        self,
        context: RunContext,
        *,
        backbone: Callable[[], FrozenBackbone],
        reference_backbone: Callable[[], FrozenBackbone] | None,
        analysis: LayerAnalysis,
    ) -> float:
        """Patch every pair at every chosen layer, site and group of tokens.

        Args:
            context: Logger, seed, folders, config.
            backbone: Loads a causal language model.
            reference_backbone: Loads another one of the same shape, such as the tuned model: its activations are
                patched into the backbone, and back.
            analysis: Holds all findings.

        Returns:
            Largest normalised effect of the first group of tokens at the first site, mean over kinds of pairs (or
            heads).

        Raises:
            ValueError: A model has no language-model head or no such receiver, both differ in their shape or tokens, or
                too few pairs have prompts of equally many tokens.
        """
        with context.logged():
            with context.stage("backbone"):
                lm = loaded_language_model(backbone)
                other = None if reference_backbone is None else loaded_language_model(reference_backbone)
            if other is not None:
                _check_alike(lm, other)
            receivers = [Place.parse(name, lm) for name in self.paths.receivers]
            names = RunNames(
                study=self.name,
                backbone=lm.backbone.name,
                reference="" if other is None else other.backbone.name,
                suite="generated pairs",
            )
            patches = list(self._patches(lm, other, context))
            for kind, role, patching, sites, positions in tracked(patches, "kinds of pairs", total=len(patches)):
                with context.stage("patching"):
                    for site in sites:
                        analysis.table.add(self._profiles(lm, patching, kind, role, site, positions))
                if not role:
                    with context.stage("paths"):
                        for receiver in receivers:
                            analysis.table.add(PathPatching(patching, self.paths).profiles(receiver, kind))
                write_results(result_rows(analysis.table.profiles, names), context.output_dir / "results.csv")
            with context.stage("report"):
                report = report_findings(context.output_dir, analysis.finish(), names=names, logger=context.logger)
                first = analysis.table.profiles[0].quantity
                largest = [
                    np.nanmax(profile.estimates.values)
                    for profile in analysis.table.group(first, _reading(lm, self.patching.sites[0]))
                    if np.isfinite(profile.estimates.values).any()
                ]
                objective = context.log_objective(float(np.mean(largest)) if largest else math.nan)
        page = write_report(context.output_dir)
        lines = path_lines(report=page, picture=report.heatmaps[0], everything=context.output_dir)
        print_screen(layer_table(report.results, first), *lines)
        return objective

    def _patches(
        self, lm: LanguageModel, other: LanguageModel | None, context: RunContext
    ) -> Iterator[tuple[str, str, Patching, tuple[str, ...], tuple[str, ...]]]:
        """Kind, role of the target, patches, sites and groups of tokens."""
        settings = self.patching
        kept = kept_arrays(lm, context.cache_dir)
        for kind in settings.pairs:
            pairs = generated_pairs(kind, lm.backbone, settings.count, seed=context.seed, key=PATCHED_PAIRS)
            clean, corrupted = (
                pair_questions(lm, pairs, side, tokens_per_batch=settings.tokens_per_batch)
                for side in ("clean", "corrupted")
            )
            own = Patching(lm, lm, clean, corrupted, kept, "", clean)
            yield kind, "", own, tuple(settings.sites), tuple(settings.positions)
            if other is None:
                continue
            for role, source, target in (("", other, lm), ("reference", lm, other)):
                kept_of_target = kept if target is lm else kept_arrays(target, context.cache_dir)
                key = fingerprint(source.model)
                across = Patching(source, target, clean, clean, kept_of_target, key, corrupted)
                yield kind, f"{role or 'backbone'}_patched", across, ("residual",), BETWEEN_MODELS

    def _profiles(
        self, lm: LanguageModel, patching: Patching, kind: str, role: str, site: str, positions: tuple[str, ...]
    ) -> Iterator[LayerProfile]:
        layers = tuple(k for k in edited_layers(lm, self.patching.every) if site == "residual" or k > 0)
        source, target = patching.answers()
        found = [patching.at(layer, site, positions) for layer in layers]
        of_heads = site == "heads"
        for name in positions:
            changes = np.stack([by_name[name] for by_name in found], axis=-2) - target  # (heads if any, layers, rows)
            for head, own in enumerate(changes if of_heads else changes[None]):
                yield LayerProfile(
                    quantity=f"patching/{name}" + (f"/{kind}" if of_heads else ""),
                    unit="share of the gap",
                    task=f"head {head}" if of_heads else kind,
                    role=role,
                    reading=_reading(lm, site),
                    layers=layers,
                    estimates=normalised_effect(own, source - target),
                )
        if site == self.patching.sites[0] or role:
            for place, values in (("source", source), ("target", target)):
                yield LayerProfile(
                    quantity=f"answer/{place}_log_odds",
                    unit="nats",
                    task=kind,
                    role=role,
                    layers=(None,),
                    estimates=effect_estimates(values[None], np.zeros(len(values), dtype=int)),
                )


def _reading(lm: LanguageModel, site: str) -> Reading:
    return Reading(lm.backbone.stacks[0], site, "tokens")


def _check_alike(lm: LanguageModel, other: LanguageModel) -> None:
    """Refuse a reference whose activations have no place in the backbone.

    Raises:
        ValueError: Layers, features or tokens differ.
    """
    text = "Patches need equal tokens, don't they? 1, 2, 3."
    sides = [
        (model.backbone.num_layers, model.backbone.hidden_size, model.backbone.tokenize([text]).text_ids)
        for model in (lm, other)
    ]
    if sides[0] != sides[1]:
        raise ValueError(
            f"Activations of '{other.backbone.name}' ({sides[1][0]} blocks, {sides[1][1]} features) cannot be patched "
            f"into '{lm.backbone.name}' ({sides[0][0]} blocks, {sides[0][1]} features), or their tokenizers differ. "
            "Set `reference_backbone` to a tuned model of the same base."
        )
