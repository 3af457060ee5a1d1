"""Does a score rest on a span of the prompt, such as a tag or the options? Probes trained anew without it tell."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from probes.analysis import paired_score_difference
from probes.metrics import MAIN_METRIC, UNITS, Predictions
from probes.probe_measures.main_scores import cells_of, over_layers
from probes.probe_measures.nuisances.verdicts import span_verdict
from probes.probe_measures.protocol import ProbedTask, refuse_fewer
from probes.seeds import derive_seed
from probes.tasks import Split, Task
from probes.training import ProbeSettings, TaskProbes, fit_task
from probes.training.scoring import NO_PROBE
from probes.values import Estimates, LayerProfile

_PIECE = re.compile(r"\S+\s*")


@dataclass(frozen=True, kw_only=True)
class SpanDeletion:
    """A measure of probes: the score of probes that are trained and tested without a named span of the prompts.

    For each span, `span/without_<name>_<metric>` with a verdict in its note, `span/without_random_<name>_<metric>`
    after deletion of a random span of equal length, and the paired differences `span/lost_with_<name>_<metric>` (the
    raw score minus that without the span) and `span/lost_more_than_random_<name>_<metric>`.

    Attributes:
        spans: Name → regular expression, `None` for no spans; every match is deleted. A span that no training prompt of
            a task has is left out for that task.
        seed: Decides the random spans.
        resamples: Of the test rows, behind each interval; 0 for none.
        permutations: Draws of each null, at least 1, as verdicts rest on them.

    Raises:
        ValueError: A regular expression cannot be read, or a number is less.
    """

    spans: Mapping[str, str] | None = None
    seed: int = 0
    resamples: int = 1000
    permutations: int = 200

    def __post_init__(self) -> None:
        refuse_fewer(self, "analysis.probe_measures.spans", resamples=0, permutations=1)
        for name, pattern in (self.spans or {}).items():
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(
                    f"`analysis.probe_measures.spans.spans.{name}` is no regular expression: {error} in {pattern!r}."
                ) from error

    def variants(self, task: Task) -> dict[str, Task]:
        """The task without each of its spans, and without random spans of equal length.

        Raises:
            ValueError: A prompt consists of the span alone.
        """
        found: dict[str, Task] = {}
        for name, expression in (self.spans or {}).items():
            pattern = re.compile(expression)
            if task.of_words or not any(pattern.search(prompt) for prompt in task.splits["train"].prompts):
                continue
            splits, like = {}, {}
            for split, rows in task.splits.items():
                draw = random.Random(f"{self.seed}/{task.name}/{split}/{name}")
                splits[split] = _with_prompts(rows, [_without(prompt, pattern) for prompt in rows.prompts])
                like[split] = _with_prompts(rows, [_without_random(prompt, pattern, draw) for prompt in rows.prompts])
                if empty := [prompt for prompt in splits[split].prompts if not prompt]:
                    raise ValueError(
                        f"Task '{task.name}', split '{split}': {len(empty)} prompts consist of the span '{name}' "
                        f"alone. Narrow `analysis.probe_measures.spans.spans.{name}`."
                    )
            found[f"without {name}"] = replace(task, splits=splits)
            found[f"without random {name}"] = replace(task, splits=like)
        return found

    def __call__(self, probed: ProbedTask) -> Iterator[LayerProfile]:
        """The profiles of one task, for every span that its prompts have."""
        own = probed.fit.predictions
        for name in self.spans or {}:
            if own is not None and f"without {name}" in probed.variants:
                yield from self._profiles(probed, own, name)

    def _profiles(self, probed: ProbedTask, own: Predictions, name: str) -> Iterator[LayerProfile]:
        metric = MAIN_METRIC[probed.data.kind]
        fits = {key: self._fit(probed, f"{key} {name}") for key in ("without", "without random")}
        predictions = {key: fit.predictions for key, fit in fits.items() if fit.predictions is not None}
        if len(predictions) < len(fits):
            return
        raw = probed.fit.profile(metric) if probed.settings.permutations > 0 else self._refit(probed).profile(metric)
        scores = {key: fit.profile(metric).estimates for key, fit in fits.items()}
        cells = zip(cells_of(raw.estimates), *(cells_of(estimates) for estimates in scores.values()), strict=True)
        verdicts = tuple(str(span_verdict(*cell, span=name)) for cell in cells)
        stem = name.replace(" ", "_")
        yield self._profile(probed, f"without_{stem}_{metric}", replace(scores["without"], remarks=verdicts))
        yield self._profile(probed, f"without_random_{stem}_{metric}", scores["without random"])
        pairs = {
            f"lost_with_{stem}_{metric}": (predictions["without"], own),
            f"lost_more_than_random_{stem}_{metric}": (predictions["without"], predictions["without random"]),
        }
        for quantity, (one, other) in pairs.items():
            layers = tuple(layer for layer in one.layers if layer in other.layers)
            estimates = paired_score_difference(
                one.at_layers(layers),
                other.at_layers(layers),
                resamples=self.resamples,
                exchanges=self.permutations,
                seed=derive_seed(probed.seed, "spans", quantity),
            )
            estimates = over_layers(replace(estimates, remarks=()), layers, probed.data.layers, NO_PROBE)
            yield self._profile(probed, quantity, estimates)

    def _fit(self, probed: ProbedTask, variant: str) -> TaskProbes:
        return fit_task(probed.variants[variant], self._settings(probed), probed.trainer, probed.seed)

    def _refit(self, probed: ProbedTask) -> TaskProbes:
        return fit_task(probed.data, self._settings(probed), probed.trainer, probed.seed)

    def _settings(self, probed: ProbedTask) -> ProbeSettings:
        draws = {"bootstrap_samples": self.resamples, "permutations": self.permutations}
        return replace(probed.settings, controls=0, **draws)

    def _profile(self, probed: ProbedTask, name: str, estimates: Estimates) -> LayerProfile:
        return LayerProfile(
            quantity=f"span/{name}",
            unit=UNITS[MAIN_METRIC[probed.data.kind]],
            estimates=estimates,
            layers=probed.data.layers,
            task=probed.data.task,
            reading=probed.data.reading,
            seed=probed.seed,
        )


def _with_prompts(rows: Split, prompts: list[str]) -> Split:
    return replace(rows, prompts=tuple(prompts))


def _without(prompt: str, pattern: re.Pattern[str]) -> str:
    """The prompt without all matches."""
    return pattern.sub("", prompt).strip()


def _without_random(prompt: str, pattern: re.Pattern[str], draw: random.Random) -> str:
    """The prompt without a random run of as many words as all matches have, outside of these.

    Where no run is so long, it is the longest there is; one word always stays.
    """
    spans = [match.span() for match in pattern.finditer(prompt)]
    pieces = [piece.span() for piece in _PIECE.finditer(prompt)]
    words = sum(len(_PIECE.findall(prompt[first:end])) for first, end in spans)
    runs: list[list[int]] = [[]]
    for number, (first, end) in enumerate(pieces):
        if any(first < span_end and span_first < end for span_first, span_end in spans):
            runs.append([])
        else:
            runs[-1].append(number)
    outside = sum(map(len, runs))
    words = min(words, max(map(len, runs)), outside - 1)
    if words < 1:
        return prompt.strip()
    starts = [start for run in runs for start in run[: len(run) - words + 1] if len(run) >= words]
    start = draw.choice(starts)
    first, end = pieces[start][0], pieces[start + words - 1][1]
    return (prompt[:first] + prompt[end:]).strip()
