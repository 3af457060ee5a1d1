"""What can be said of layers without labels, and how far it goes with what probes decode (Skean et al. 2025)."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor

from probes.analysis.geometry.augmented_views import dime, info_nce_leave_one_out, lidar
from probes.analysis.intervals import HalfMeans, half_sample_errors, jackknife_errors
from probes.analysis.similarity.leave_one_out import LeaveOneOut
from probes.metrics import LARGER_IS_BETTER, MAIN_METRIC
from probes.probe_measures.label_free.text_pairs import PairSettings, pair_profiles
from probes.probe_measures.linear_refits import has_independent_vectors
from probes.probe_measures.protocol import ProbedTask, TextPairs
from probes.seeds import derive_seed
from probes.tasks import Task
from probes.values import Estimates, LayerProfile

VARIANT = "altered copy"
"""Name of the variants of a task, before their number."""
_TOKEN_QUANTITIES = {"prompt_entropy": "share of the maximum", "token_curvature": "degrees"}


@dataclass(frozen=True, kw_only=True)
class LabelFreePanel:
    """Five label-free quantities of each layer, and the correlation of each with the task's scores over layers.

    `label_free/prompt_entropy` and `label_free/token_curvature` are means over prompts and read all tokens of some test
    prompts in a pass of their own. `label_free/info_nce`, `label_free/dime` and `label_free/lidar` compare the prompts
    with altered copies of them, which the study reads with the suite. `score_correlation/<quantity>`, one number of the
    task, is Spearman's correlation over layers with the test scores by the main metric.

    Tasks of pairs of texts have three quantities of their own, see `pair_profiles`, which are correlated with the mean
    score of the probed tasks.

    Attributes:
        texts: Test prompts of a task that are altered, and whose tokens are read.
        copies: Altered copies of each; 0: nothing is compared with copies.
        altered_share: Share of the characters of a prompt that are altered.
        tokens: Whether to read all tokens, for the first two quantities.
        match_from: Least gold score of two texts that match, for retrieval; `None`: the highest of the task.
        seed: Decides the alterations.
    """

    texts: int = 48
    copies: int = 3
    altered_share: float = 0.05
    tokens: bool = True
    match_from: float | None = None
    seed: int = 0

    @property
    def token_texts(self) -> int:
        """Test prompts of a task whose tokens the study has to read."""
        return self.texts if self.tokens else 0

    def variants(self, task: Task) -> Mapping[str, Task]:
        """Copies of the task in which some test prompts are altered; the other prompts cost no pass."""
        return {f"{VARIANT} {number}": self._altered(task, number) for number in range(self.copies)}

    def _altered(self, task: Task, number: int) -> Task:
        test = task.splits["test"]
        altered = [
            alter(prompt, self.altered_share, seed=derive_seed(self.seed, "alter", task.name, row, number))
            for row, prompt in enumerate(test.prompts[: self.texts])
        ]
        prompts = (*altered, *test.prompts[self.texts :])
        return replace(task, splits={**task.splits, "test": replace(test, prompts=prompts)})

    def __call__(self, probed: ProbedTask) -> Iterator[LayerProfile]:
        """Profiles over layers, and numbers of the task."""
        data = probed.data
        if not has_independent_vectors(data):
            return
        profiles = [*self._of_tokens(probed), *self._of_copies(probed)]
        yield from profiles
        scores = probed.fit.profile(MAIN_METRIC[data.kind]).estimates.values
        sign = 1 if LARGER_IS_BETTER[MAIN_METRIC[data.kind]] else -1
        for profile in profiles:
            yield _correlation(profile, sign * scores)

    def of_pairs(self, pairs: TextPairs) -> Iterator[LayerProfile]:
        """Profiles of a task of pairs of texts over layers, and their correlations with the mean score of the tasks."""
        scores = _mean_score(pairs)
        for profile in pair_profiles(pairs, PairSettings(match_from=self.match_from)):
            yield profile
            if scores is not None and profile.quantity.startswith("label_free/"):
                yield _correlation(profile, scores)

    def _of_tokens(self, probed: ProbedTask) -> Iterator[LayerProfile]:
        for name, unit in _TOKEN_QUANTITIES.items():
            by_text = probed.token_paths.get(name)
            if by_text is None:
                continue
            known = by_text[:, by_text.isfinite().all(0)]
            count = known.shape[1]
            if count < 2:
                continue
            errors = (known - known.mean(1, keepdim=True)).T / (count * (count - 1)) ** 0.5
            yield _profile(probed, name, unit, Estimates(known.mean(1).numpy(), count, errors=errors.numpy()))

    def _of_copies(self, probed: ProbedTask) -> Iterator[LayerProfile]:
        names = [name for name in probed.variants if name.startswith(VARIANT)]
        if not names:
            return
        rows = min(self.texts, len(probed.data.test.targets))
        versions = itertools.chain([probed.data], (probed.variants[name] for name in names))
        # cloned, so that a version that was read for this alone is not kept
        views = torch.stack([one.test.activations.values[:, :rows].clone() for one in versions], dim=1)
        found = [info_nce_leave_one_out(views[:, 0], views[:, k]) for k in range(1, views.shape[1])]
        recognised = torch.stack([one.values for one in found]).mean(0)
        without = torch.stack([one.without_row for one in found]).mean(0)
        errors = jackknife_errors(LeaveOneOut(recognised, without))
        constant = views[:, 0].std(1).amax(1) == 0
        yield _profile(
            probed,
            "info_nce",
            "bits",
            _without(constant, Estimates(recognised.numpy(), rows, errors=errors)),
        )

        def by_halves(name: str, unit: str, statistic: Any, half_samples: int, half_means: HalfMeans) -> LayerProfile:
            values = statistic(torch.arange(rows))
            seed = derive_seed(self.seed, "halves")
            halves = half_sample_errors(statistic, rows, half_samples=half_samples, half_means=half_means, seed=seed)
            return _profile(probed, name, unit, _without(constant, Estimates(values.numpy(), rows, errors=halves)))

        yield by_halves("dime", "bits", lambda at: dime(views[:, 0, at], views[:, 1, at], seed=self.seed), 20, "added")
        yield by_halves("lidar", "directions", lambda at: lidar(views[:, :, at]), 40, "ignored")


def alter(text: str, share: float, *, seed: int) -> str:
    """Alter a share of a text's characters, at least one: swap two neighbours, leave one out, or double one.

    >>> alter("a quick brown fox", 0.1, seed=1) != "a quick brown fox" == alter("a quick brown fox", 0.0, seed=1)
    True
    """
    if share <= 0 or len(text) < 2:
        return text
    choose = random.Random(seed)
    characters = list(text)
    for place in sorted(choose.sample(range(len(text) - 1), max(1, round(share * (len(text) - 1)))), reverse=True):
        kind = choose.randrange(3)
        if kind == 0 and characters[place] != characters[place + 1]:
            characters[place : place + 2] = characters[place + 1], characters[place]
        elif kind == 1:
            del characters[place]
        else:
            characters.insert(place, characters[place])
    return "".join(characters)


def _profile(probed: ProbedTask, name: str, unit: str, estimates: Estimates) -> LayerProfile:
    data = probed.data
    return LayerProfile(
        quantity=f"label_free/{name}",
        unit=unit,
        estimates=estimates,
        layers=data.layers,
        task=data.task,
        reading=data.reading,
        seed=probed.seed,
    )


def _without(constant: Tensor, estimates: Estimates) -> Estimates:
    values = np.where(constant.numpy(), np.nan, estimates.values)
    errors = None if estimates.errors is None else np.where(constant.numpy(), np.nan, estimates.errors)
    return replace(estimates, values=values, errors=errors)


def _mean_score(pairs: TextPairs) -> np.ndarray | None:
    """Mean over tasks of the main score of each layer, larger for better ones; `None` without tasks."""
    scores = []
    for profile in pairs.probed:
        sign = 1 if LARGER_IS_BETTER[profile.metric] else -1
        by_layer = dict(profile.by_layer())
        scores.append([sign * by_layer.get(layer, np.nan) for layer in pairs.layers])
    return np.mean(scores, axis=0) if scores else None


def _correlation(profile: LayerProfile, scores: Sequence[float] | np.ndarray) -> LayerProfile:
    """Spearman's correlation of a quantity with scores over layers; neighbouring layers are not independent."""
    values, scores = profile.estimates.values, np.asarray(scores)
    known = np.isfinite(values) & np.isfinite(scores)
    varies = known.sum() > 2 and np.ptp(values[known]) > 0 and np.ptp(scores[known]) > 0
    result: Any = spearmanr(values[known], scores[known]) if varies else None
    found = float("nan") if result is None else float(result.statistic)
    return replace(
        profile,
        quantity=f"score_correlation/{profile.quantity.removeprefix('label_free/')}",
        unit="rank correlation over layers",
        layers=(None,),
        estimates=Estimates(np.array([found]), int(known.sum()), note="fewer than three layers, or all are equal"),
    )
