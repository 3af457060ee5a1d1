"""One task steered at one layer after another: a class's direction is added to hidden states in several doses."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from probes.analysis.effects import effect_estimates, log_odds_of_right
from probes.answers import LanguageModel, Questions
from probes.interventions import (
    KeptArrays,
    LabelMoments,
    Streams,
    add,
    contrasts,
    lda_directions,
    mean_difference_directions,
    of_equal_length,
    random_directions,
    token_groups,
)
from probes.interventions.streams import GROUPS
from probes.seeds import derive_seed
from probes.studies.interventions.answered import ANSWERS_NATS, AnsweredTask
from probes.training import LayerProbes
from probes.values import LayerProfile, Reading

DIRECTIONS = ("probe", "mean_difference", "lda")


@dataclass(frozen=True, kw_only=True)
class SteeringSettings:
    """What is added to hidden states, where, and how much.

    Attributes:
        directions: Some of `probe` (the gradient of the class's logit), `mean_difference`, `lda`; all are scaled to the
            length of the mean difference.
        doses: Multiples of that length, among them 1: the distance between the class's mean and that of the others.
        positions: Of which tokens of the prompt: the `last`, where the answer is predicted, or `all`.
        every: The last layer and every so many layers before it are edited.
        random_directions: Random directions of the same length to compare with.
        max_classes: Classes that are steered to; of two classes the second, as the first is its opposite.
        shrink: Shrink the correlations that `lda` divides by.
        tokens_per_batch: Tokens of one pass at most.

    Raises:
        ValueError: A field is out of its range.
    """

    directions: Sequence[str] = DIRECTIONS
    doses: Sequence[float] = (0.5, 1.0, 2.0)
    positions: str = "last"
    every: int = 6
    random_directions: int = 3
    max_classes: int = 2
    shrink: bool = True
    tokens_per_batch: int = 1024

    def __post_init__(self) -> None:
        unknown = [name for name in self.directions if name not in DIRECTIONS]
        if unknown or not self.directions:
            raise ValueError(
                f"Unknown direction {unknown}. There are {', '.join(DIRECTIONS)}. Set `study.steering.directions`."
            )
        if 1.0 not in self.doses or min(self.doses) <= 0:
            raise ValueError(f"`study.steering.doses` must be above 0, and 1 among them; got {list(self.doses)}.")
        if self.positions not in GROUPS:
            raise ValueError(
                f"Unknown positions {self.positions!r}. There are {', '.join(GROUPS)}. Set `study.steering.positions`."
            )
        for key, least in {"every": 1, "random_directions": 2, "max_classes": 1, "tokens_per_batch": 1}.items():
            if getattr(self, key) < least:
                raise ValueError(f"`study.steering.{key}` must be at least {least}; got {getattr(self, key)}.")

    @property
    def signed_doses(self) -> tuple[float, ...]:
        """All doses, and their negatives, ascending."""
        return tuple(sorted({sign * dose for dose in self.doses for sign in (-1.0, 1.0)}))


@dataclass
class TaskSteering:
    """Steers one task, layer by layer in ascending order.

    Attributes:
        lm: The model.
        answered: The task.
        probes: Probes of the last token.
        settings: What is added, and where.
        kept: Where results are kept.
        seed: Decides the random directions.
    """

    lm: LanguageModel
    answered: AnsweredTask
    probes: LayerProbes | None
    settings: SteeringSettings
    kept: KeptArrays
    seed: int

    def __post_init__(self) -> None:
        self._streams: dict[str, Streams] = {}
        self._slopes: Tensor | None = None
        classes = len(self.answered.task.labels)
        self.targets = [1] if classes == 2 else list(range(classes))[: self.settings.max_classes]

    def unedited(self) -> dict[str, np.ndarray]:
        """Log-probabilities of the options without edits: `test` and `content_free`."""
        questions = {"test": self.answered.test, "content_free": self.answered.content_free}
        return self.kept.get(
            {"unedited": self.answered.key, "others": {}},
            lambda: {name: self.lm.log_probs(own).numpy() for name, own in questions.items()},
        )

    def at(self, layer: int) -> dict[str, np.ndarray]:
        """Log-probabilities `(classes, doses, rows, options)` for each direction, and `random` with draws in front."""
        settings = {name: list(v) if isinstance(v, tuple | list) else v for name, v in vars(self.settings).items()}
        gradient = None if self.probes is None else self._gradient(layer).tolist()
        key = {"steer": self.answered.key, "layer": layer, "settings": settings, "seed": self.seed, "probe": gradient}
        return self.kept.get(key, partial(self._compute, layer))

    def _compute(self, layer: int) -> dict[str, np.ndarray]:
        train = self._carried("train", self.answered.train, layer)
        test = self._carried("test", self.answered.test, layer)
        labels = self.answered.labels("train")
        moments = train.moments(labels, len(self.answered.task.labels), "last")["last"]
        difference = mean_difference_directions(moments)
        found = {}
        for name in self.settings.directions:
            directions = of_equal_length(self._directions(name, moments, layer), difference)
            found[name] = self._steered(test, directions, layer)
        draws = [
            random_directions(difference, seed=derive_seed(self.seed, "random direction", layer, draw))
            for draw in range(self.settings.random_directions)
        ]
        found["random"] = np.stack([self._steered(test, of_equal_length(own, difference), layer) for own in draws])
        return found

    def _directions(self, name: str, moments: LabelMoments, layer: int) -> Tensor:
        if name == "lda":
            return lda_directions(moments, shrink=self.settings.shrink)
        return self._gradient(layer) if name == "probe" else mean_difference_directions(moments)

    def _gradient(self, layer: int) -> Tensor:
        """Contrasts of the slopes of the probe's logits, `(classes, features)`; zeros at a layer without a probe."""
        if self.probes is None or self.probes.standardiser is None or layer not in self.probes.probed_layers:
            return torch.zeros(len(self.answered.task.labels), self.lm.backbone.hidden_size, dtype=torch.float64)
        if self._slopes is None:
            self._slopes = slopes(self.probes)
        return contrasts(self._slopes[self.probes.probed_layers.index(layer)])

    def _steered(self, test: Streams, directions: Tensor, layer: int) -> np.ndarray:
        def scores(target: int, dose: float) -> np.ndarray:
            return test.log_probs(
                lambda batch: [
                    add(directions[target], layer=layer, scale=dose, positions=mask)
                    for mask in token_groups(batch, self.settings.positions).values()
                ]
            ).numpy()

        doses = self.settings.signed_doses
        return np.stack([np.stack([scores(target, dose) for dose in doses]) for target in self.targets])

    def _carried(self, name: str, questions: Questions, layer: int) -> Streams:
        streams = self._streams.get(name) or Streams.at_input(self.lm, questions)
        self._streams[name] = streams.carried(layer)
        return self._streams[name]


def slopes(probes: LayerProbes, *, features_at_once: int = 256) -> Tensor:
    """How the logits of each probe change with each feature, about the training mean, per unit of the feature.

    Of a linear probe these are its weights; of another one, slopes over a standard deviation of the feature.

    Args:
        probes: Of some layers, at least one of which has a probe.
        features_at_once: Features that are changed in one pass.

    Returns:
        float64, shape `(probed layers, classes, features)`.
    """
    assert probes.standardiser is not None
    probed = [probes.layers.index(layer) for layer in probes.probed_layers]
    mean, deviation = probes.standardiser.mean, probes.standardiser.deviation  # (probed layers, features)
    rows = torch.zeros(len(probes.layers), features_at_once, probes.in_features)
    rows[probed] = mean[:, None]
    at_mean = probes.logits(rows[:, :1])[probed].double()
    parts = []
    for some in torch.arange(probes.in_features).split(features_at_once):
        moved = rows[:, : len(some)].clone()
        for place, layer in enumerate(probed):
            moved[layer, torch.arange(len(some)), some] += deviation[place, some]
        change = probes.logits(moved)[probed].double() - at_mean  # (probed layers, some, classes)
        parts.append(change / deviation[:, some, None])
    return torch.cat(parts, dim=1).transpose(1, 2)


def steering_profiles(
    steering: TaskSteering, found: Mapping[int, Mapping[str, np.ndarray]], reading: Reading
) -> Iterator[LayerProfile]:
    """How far each direction moves the log-odds of its class.

    Yields:
        `steering/<direction>`: half the difference of the log-odds between doses 1 and −1, mean over steered classes;
        `steering_beyond_random/<direction>`, less that of random directions; and, with the dose as `control`, the
        change of the log-odds at every dose.
    """
    labels = steering.answered.labels("test").numpy()
    before = steering.unedited()["test"]
    doses = steering.settings.signed_doses
    plus, minus = doses.index(1.0), doses.index(-1.0)

    def moved(name: str) -> np.ndarray:
        """Change of the log-odds of the steered class, `(…, doses, layers, rows)`, mean over classes."""
        after = np.stack([by_name[name] for by_name in found.values()], axis=-3)  # (…, classes, doses, layers, …)
        changes = []
        for place, target in enumerate(steering.targets):
            own = np.full(len(labels), target)
            changes.append(log_odds_of_right(after[..., place, :, :, :, :], own) - log_odds_of_right(before, own))
        return np.mean(changes, axis=0)

    common = {"unit": ANSWERS_NATS, "task": steering.answered.task.name, "reading": reading, "layers": tuple(found)}
    random = moved("random")
    by_chance = (random[:, plus] - random[:, minus]) / 2
    for name in steering.settings.directions:
        change = moved(name)
        effect = (change[plus] - change[minus]) / 2
        yield LayerProfile(quantity=f"steering/{name}", estimates=effect_estimates(effect, labels), **common)
        beyond = effect_estimates(effect, labels, by_chance, alternative="greater", draws_are="random directions")
        yield LayerProfile(quantity=f"steering_beyond_random/{name}", estimates=beyond, **common)
        for place, dose in enumerate(doses):
            at_dose = effect_estimates(change[place], labels)
            yield LayerProfile(quantity=f"steering/{name}", estimates=at_dose, control=f"dose {dose:+g}", **common)
    for place, dose in enumerate(doses):
        at_dose = effect_estimates(random[:, place].mean(0), labels)
        yield LayerProfile(quantity="steering/random", estimates=at_dose, control=f"dose {dose:+g}", **common)
