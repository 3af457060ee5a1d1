"""What a probe's score is worth: against words alone, against layer 0, and against random weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from probes.analysis import paired_score_difference
from probes.metrics import MAIN_METRIC, UNITS, Predictions
from probes.probe_measures.main_scores import main_score_estimates, over_layers, predictions_of
from probes.probe_measures.nuisances.features import tfidf
from probes.probe_measures.nuisances.linear_fit import Labelled, fit_linear
from probes.probe_measures.protocol import ProbedTask, refuse_fewer
from probes.seeds import derive_seed
from probes.tasks import Task
from probes.training import fit_task
from probes.training.scoring import NO_PROBE
from probes.values import SPLITS, Estimates, LayerProfile

_TFIDF_NORM = 10.0
"""Norm of a row of TF-IDF features, so that the same penalties suit them as standardised activations."""


@dataclass(frozen=True, kw_only=True)
class Baselines:
    """A measure of probes: scores of baselines on the same rows, and the paired gain of every layer over each of them.

    `baseline/tfidf_<metric>` is the score of a linear probe of words and pairs of words, `baseline/random_weights_…`
    that of the task's probes on the same architecture with random weights, layer by layer. `gain_over/<baseline>_…` is
    the score of the task's probe minus that of the baseline, also of its own layer 0, with paired intervals and a null
    of exchanged predictions.

    Attributes:
        words: Whether to fit TF-IDF features.
        layer_0: Whether to compare with layer 0.
        random_weights: Whether to read the architecture with random weights, which takes another pass.
        max_words: The most words and pairs of words, those in most training rows.
        resamples: Of the test rows, behind each interval; 0 for none.
        permutations: Draws of each null; 0 for none.

    Raises:
        ValueError: A number is less.
    """

    words: bool = True
    layer_0: bool = True
    random_weights: bool = True
    max_words: int = 5000
    resamples: int = 1000
    permutations: int = 200

    def __post_init__(self) -> None:
        refuse_fewer(self, "analysis.probe_measures.baselines", resamples=0, permutations=0)

    def __call__(self, probed: ProbedTask) -> Iterator[LayerProfile]:
        """The profiles of one task; none where no layer has a probe."""
        own = probed.fit.predictions
        if own is None:
            return
        if self.words:
            yield from self._over_words(probed, own)
        if self.layer_0 and 0 in own.layers:
            yield self._gain(probed, own, own.at_layers([0] * len(own.layers), names=own.layers), "layer_0")
        if self.random_weights and probed.random_weights is not None:
            yield from self._over_random_weights(probed, own)

    def _over_words(self, probed: ProbedTask, own: Predictions) -> Iterator[LayerProfile]:
        data, metric = probed.data, MAIN_METRIC[probed.data.kind]
        features = tfidf(_texts(probed.task), max_features=self.max_words, longest=2)
        mean = features["train"].mean(0)
        targets = {split: getattr(data, split).targets for split in SPLITS}
        labelled = Labelled(data.kind, data.num_classes, targets, probed.settings, probed.seed, data.groups_of("train"))
        x = {split: (_TFIDF_NORM * (rows - mean))[None] for split, rows in features.items()}
        fit = fit_linear(x, labelled)
        logits = fit.logits(x["test"])
        estimates = main_score_estimates(
            data.kind,
            logits,
            targets["test"],
            resamples=self.resamples,
            permutations=self.permutations,
            seed=probed.seed,
            groups=data.row_groups("test"),
        )
        estimates = replace(estimates, remarks=fit.remarks)
        yield replace(_profile(probed, f"baseline/tfidf_{metric}", estimates), layers=(None,))
        predictions = predictions_of(data, logits.expand(len(own.layers), -1, -1), own.layers)
        yield self._gain(probed, own, predictions, "tfidf")

    def _over_random_weights(self, probed: ProbedTask, own: Predictions) -> Iterator[LayerProfile]:
        assert probed.random_weights is not None
        draws = {"bootstrap_samples": self.resamples, "permutations": self.permutations}
        settings = replace(probed.settings, controls=0, **draws)
        fit = fit_task(probed.random_weights, settings, probed.trainer, probed.seed)
        metric = MAIN_METRIC[probed.data.kind]
        yield replace(fit.profile(metric), quantity=f"baseline/random_weights_{metric}", probe="")
        if fit.predictions is not None:
            shared = tuple(layer for layer in own.layers if layer in fit.predictions.layers)
            yield self._gain(probed, own.at_layers(shared), fit.predictions.at_layers(shared), "random_weights")

    def _gain(self, probed: ProbedTask, own: Predictions, baseline: Predictions, name: str) -> LayerProfile:
        estimates = paired_score_difference(
            baseline,
            own,
            resamples=self.resamples,
            exchanges=self.permutations,
            seed=derive_seed(probed.seed, "baselines", name),
        )
        note = NO_PROBE if name != "random_weights" else f"{NO_PROBE}, of the backbone or of random weights"
        spread = over_layers(replace(estimates, remarks=()), own.layers, probed.data.layers, note)
        return _profile(probed, f"gain_over/{name}_{MAIN_METRIC[probed.data.kind]}", spread)


def _texts(task: Task) -> dict[str, Sequence[str]]:
    """Split → what each row is: its prompt, or its word."""
    splits = {split: task.splits[split] for split in SPLITS}
    return {split: rows.prompts if rows.words is None else rows.words.types for split, rows in splits.items()}


def _profile(probed: ProbedTask, quantity: str, estimates: Estimates) -> LayerProfile:
    return LayerProfile(
        quantity=quantity,
        unit=UNITS[MAIN_METRIC[probed.data.kind]],
        estimates=estimates,
        layers=probed.data.layers if len(estimates.values) == len(probed.data.layers) else (None,),
        task=probed.data.task,
        reading=probed.data.reading,
        seed=probed.seed,
    )
