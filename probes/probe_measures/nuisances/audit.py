"""The audit of one task: what nuisances decode alone, what remains without them, and a verdict for each layer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from probes.analysis import paired_score_difference
from probes.metrics import MAIN_METRIC, UNITS
from probes.probe_measures.main_scores import cells_of, main_score_estimates, over_layers, predictions_of
from probes.probe_measures.nuisances.features import MAX_WORDS, NUISANCES, NuisanceGroup, all_of, nuisances_of
from probes.probe_measures.nuisances.linear_fit import Labelled, fit_linear, main_score
from probes.probe_measures.nuisances.residuals import residuals
from probes.probe_measures.nuisances.strata import strata_of, within_strata
from probes.probe_measures.nuisances.verdicts import verdict_of
from probes.probe_measures.protocol import ProbedTask, refuse_fewer
from probes.seeds import derive_seed
from probes.tasks import Task
from probes.training import Standardiser, is_exact
from probes.training.scoring import NO_PROBE
from probes.values import SPLITS, Estimates, LayerProfile

PREFIX = "nuisance/"
"""Starts the names of all quantities of the audit."""


@dataclass(frozen=True, kw_only=True)
class NuisanceAudit:
    """A measure of probes that compares the score with what nuisances explain of it.

    For each task: `nuisance/alone_<nuisance>`, the test score of a linear probe of one nuisance, and of all of them.
    For each layer: `nuisance/residual_<metric>`, the score after nuisances are regressed out of the activations, with
    the verdict in its note; `nuisance/raw_minus_residual_<metric>`, the paired difference; and
    `nuisance/within_strata_<metric>`, the score within strata of the strongest nuisance.

    Attributes:
        leave_out: Names of nuisances that are none, such as `words` where a task asks for words.
        max_words: The most words in the bag of words.
        resamples: Of the test rows, behind each interval; 0 for none.
        permutations: Draws of each null, at least 1, as verdicts rest on them.

    Raises:
        ValueError: A number is less.
    """

    leave_out: Sequence[str] = ()
    max_words: int = MAX_WORDS
    resamples: int = 1000
    permutations: int = 200

    def __post_init__(self) -> None:
        refuse_fewer(self, "analysis.probe_measures.nuisances", resamples=0, permutations=1)

    def check(self, tasks: Sequence[Task]) -> None:
        """Refuse names in `leave_out` that no task has.

        Raises:
            ValueError: A name is neither a nuisance nor a column of a task.
        """
        columns = [name for task in tasks for split in task.splits.values() for name in split.columns]
        known = list(dict.fromkeys([*NUISANCES, *columns]))
        if unknown := [name for name in self.leave_out if name not in known]:
            raise ValueError(
                f"`analysis.probe_measures.nuisances.leave_out` names {', '.join(unknown)}, which is no nuisance. "
                f"There are {', '.join(known)}."
            )

    def __call__(self, probed: ProbedTask) -> Iterator[LayerProfile]:
        """The profiles of one task; none if nothing that may explain its labels varies, or no layer has a probe."""
        groups = nuisances_of(probed.task, probed.token_counts, max_words=self.max_words)
        groups = tuple(group for group in groups if group.name not in self.leave_out)
        if groups and probed.fit.predictions is not None:
            yield from _TaskAudit(self, probed, groups).profiles()


@dataclass(frozen=True)
class _Alone:
    """What nuisances decode without activations.

    Attributes:
        test: Nuisance → logits of the test rows, `(rows, classes)`; all nuisances together come last.
        train: Nuisance → logits of the training rows out of fold.
        strongest: The one nuisance with the best validation score.
        estimates: Nuisance → its test score, one layer.
    """

    test: dict[str, Tensor]
    train: dict[str, Tensor]
    strongest: str
    estimates: Mapping[str, Estimates]


class _TaskAudit:
    """The audit of one task at one reading."""

    def __init__(self, settings: NuisanceAudit, probed: ProbedTask, groups: Sequence[NuisanceGroup]) -> None:
        data = probed.data
        self.settings, self.probed, self.groups = settings, probed, groups
        self.layers = probed.fit.probes.probed_layers
        self.metric = MAIN_METRIC[data.kind]
        targets = {split: getattr(data, split).targets for split in SPLITS}
        self.labelled = Labelled(
            data.kind, data.num_classes, targets, probed.settings, probed.seed, data.groups_of("train")
        )
        self.row_groups = data.row_groups("test")

    def profiles(self) -> Iterator[LayerProfile]:
        kind, targets = self.labelled.kind, self.labelled.targets["test"]
        alone = self._alone()
        for name, estimates in alone.estimates.items():
            strongest = "strongest by validation rows" if name == alone.strongest else ""
            remark = "; ".join(filter(None, (strongest, *estimates.remarks)))
            yield self._profile(f"alone_{name.replace(' ', '_')}", replace(estimates, remarks=(remark,)))
        standardised = self._standardised()
        together = list(dict.fromkeys((alone.strongest, next(reversed(alone.test)))))
        without = residuals(standardised, self.groups, self.labelled.fold)
        covariates = torch.cat([alone.train[name] for name in together], dim=1)
        fit = fit_linear(without.values, self.labelled, covariates=covariates)
        raw_logits, raw_remarks = self._raw_logits(standardised)
        logits = {"raw": raw_logits, "residual": fit.logits(without.values["test"])}
        scores = {name: self._estimates(own) for name, own in logits.items()}
        best = max((cells_of(estimates)[0] for estimates in alone.estimates.values()), key=lambda cell: cell.value)
        cells = zip(cells_of(scores["raw"]), cells_of(scores["residual"]), strict=True)
        asked = alone.strongest in self.probed.task.asks_for
        verdicts = [verdict_of(raw, residual, best, alone.strongest, asked=asked) for raw, residual in cells]
        said = zip(map(str, verdicts), fit.remarks, strict=True)
        residual = replace(scores["residual"], remarks=tuple("; ".join(filter(None, of_layer)) for of_layer in said))
        yield self._of_layers(f"residual_{self.metric}", residual)
        predictions = {name: predictions_of(self.probed.data, own, self.layers) for name, own in logits.items()}
        difference = paired_score_difference(
            predictions["residual"],
            predictions["raw"],
            resamples=self.settings.resamples,
            exchanges=self.settings.permutations,
            seed=self._seed("difference"),
        )
        yield self._of_layers(f"raw_minus_residual_{self.metric}", replace(difference, remarks=raw_remarks))
        yield self._explained_variance(without.explained)
        within = within_strata(
            kind,
            logits["raw"],
            targets,
            strata_of(kind, alone.test[alone.strongest]),
            resamples=self.settings.resamples,
            permutations=self.settings.permutations,
            seed=self._seed("strata"),
            groups=self.row_groups,
        )
        within = replace(within, remarks=(f"strata of {alone.strongest}",) * len(self.layers))
        yield self._of_layers(f"within_strata_{self.metric}", within)

    def _alone(self) -> _Alone:
        groups = list(self.groups) if len(self.groups) == 1 else [*self.groups, all_of(self.groups)]
        targets, test, train, validation, estimates = self.labelled.targets, {}, {}, {}, {}
        for group in groups:
            features = {split: rows[None] for split, rows in group.features.items()}
            fit = fit_linear(features, self.labelled, out_of_fold=True)
            assert fit.out_of_fold is not None
            test[group.name], train[group.name] = fit.logits(features["test"])[0], fit.out_of_fold[0]
            estimates[group.name] = replace(self._estimates(test[group.name][None]), remarks=fit.remarks)
            by = "validation" if self.labelled.has_validation else "train"
            logits = fit.logits(features["validation"]) if by == "validation" else fit.out_of_fold
            validation[group.name] = main_score(self.labelled.kind, logits, targets[by]).nan_to_num(-torch.inf).item()
        strongest = max((group.name for group in self.groups), key=lambda name: validation[name])
        return _Alone(test, train, strongest, estimates)

    def _standardised(self) -> dict[str, Tensor]:
        """Activations of the probed layers, standardised by the training rows."""
        data = self.probed.data
        probed = torch.tensor([data.layers.index(layer) for layer in self.layers])
        values = {split: getattr(data, split).activations.values[probed].float() for split in SPLITS}
        standardiser, _ = Standardiser.of(values["train"])
        return {split: standardiser(own) for split, own in values.items()}

    def _raw_logits(self, standardised: Mapping[str, Tensor]) -> tuple[Tensor, tuple[str, ...]]:
        """Test logits `(layers, rows, classes)` of the task's probes, or of linear ones fitted here; their remarks."""
        probes, data = self.probed.fit.probes, self.probed.data
        architecture = probes.architecture(data.in_features, data.num_classes)
        if not is_exact(self.probed.settings, architecture):
            fit = fit_linear(standardised, self.labelled)
            return fit.logits(standardised["test"]), fit.remarks
        logits = probes.logits(data.test.activations.values)
        return logits[[data.layers.index(layer) for layer in self.layers]], ("",) * len(self.layers)

    def _estimates(self, logits: Tensor) -> Estimates:
        return main_score_estimates(
            self.labelled.kind,
            logits,
            self.labelled.targets["test"],
            resamples=self.settings.resamples,
            permutations=self.settings.permutations,
            seed=self.probed.seed,
            groups=self.row_groups,
        )

    def _explained_variance(self, explained: Tensor) -> LayerProfile:
        estimates = Estimates(explained.double().numpy(), len(self.labelled.targets["train"]))
        unit = "share of the variance of training activations"
        return replace(self._of_layers("explained_variance", estimates), unit=unit)

    def _of_layers(self, name: str, estimates: Estimates) -> LayerProfile:
        """A profile over all layers of the task, from estimates of those with a probe."""
        layers = self.probed.data.layers
        return replace(self._profile(name, over_layers(estimates, self.layers, layers, NO_PROBE)), layers=layers)

    def _profile(self, name: str, estimates: Estimates) -> LayerProfile:
        return LayerProfile(
            quantity=f"{PREFIX}{name}",
            unit=UNITS[self.metric],
            estimates=estimates,
            layers=(None,) * len(estimates.values),
            task=self.probed.data.task,
            reading=self.probed.data.reading,
            seed=self.probed.seed,
        )

    def _seed(self, name: str) -> int:
        return derive_seed(self.probed.seed, "nuisances", name)
