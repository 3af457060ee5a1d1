"""What the logit lens and the tuned lens see of answers at every layer, and how far they are from the model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from probes.analysis.effects import effect_estimates, log_odds_of_right, without_null
from probes.answers import LanguageModel, OptionBatch, Questions
from probes.files import digest_of_json
from probes.interventions import KeptArrays
from probes.interventions.lenses import (
    Readout,
    TokenStates,
    Translators,
    divergence,
    divergences,
    lens_logits,
    mean_distribution,
    sampled_states,
)
from probes.interventions.tuned_lens import TunedLensSettings, train_translators
from probes.seeds import derive_seed
from probes.studies.interventions.answered import ANSWERS_NATS, AnsweredTask
from probes.values import Estimates, LayerProfile, Reading

HELD_OUT = "held-out texts"
"""The task of what is measured on tokens of texts that the tuned lens was not trained on."""
LENSES = ("logit_lens", "tuned_lens")
VALIDATION_SHARE = 5
"""Every fifth training text decides which state of the tuned lens is kept."""
ROUNDING = 1e-3
"""Log-probabilities that differ by less, in nats, are equal."""
VALIDATION_TOKENS = 512
"""Most tokens of these texts."""


@dataclass(frozen=True)
class LensOfTask:
    """What one lens sees of a task's questions at some layers.

    Attributes:
        log_probs: Of each option, the sum over its tokens, nats, float64, shape `(layers, rows, options)`.
        log10_ranks: Decimal logarithm of the rank of each option's first token in the vocabulary, 0 for the most likely
            token, same shape.
        divergences: KL(model ‖ lens) where the answer's first token is predicted, nats, shape `(layers, rows)`.
    """

    log_probs: np.ndarray
    log10_ranks: np.ndarray
    divergences: np.ndarray


@torch.no_grad()
def look(
    lm: LanguageModel, questions: Questions, layers: Sequence[int], translators: Translators | None = None
) -> LensOfTask:
    """Look at some layers through a lens, where the options of questions are predicted.

    Args:
        lm: The model.
        questions: Prompts and options.
        layers: Which layers.
        translators: Of the tuned lens; without them, the logit lens. At the last layer both are the model.
    """
    shape = len(layers), questions.rows, questions.options
    log_probs, ranks, far = torch.zeros(shape).double(), torch.zeros(shape).double(), torch.zeros(shape[:2]).double()
    last = lm.backbone.num_layers
    for batch in questions.batches:
        positions, place_of = batch.positions.unique(return_inverse=True)
        cells, first = batch.cells, _predicts_first(batch)
        rows = torch.div(positions, batch.input_ids.shape[1], rounding_mode="floor")
        at_end = first.new_zeros(len(positions)).scatter_reduce(0, place_of, first, "amax")
        wanted = sorted({*layers, last})
        states = lm.backbone.hidden_states(batch.input_ids, batch.attention_mask, layers=wanted)
        final = lens_logits(lm, batch.input_ids, positions, states[last]).log_softmax(-1)
        for place, layer in enumerate(layers):
            hidden = states[layer] if translators is None else translators(states[layer], layer)
            lens = lens_logits(lm, batch.input_ids, positions, hidden).log_softmax(-1)
            of_targets = lens[place_of.to(lens.device), batch.targets.to(lens.device)]
            log_probs[place].view(-1).index_add_(0, cells, of_targets.double().cpu())
            larger = (lens[place_of.to(lens.device)[first]] > of_targets[first, None]).sum(-1)
            ranks[place].view(-1)[cells[first]] = (1 + larger).double().log10().cpu()
            far[place, batch.rows[rows[at_end]]] = divergence(final[at_end], lens[at_end]).double().cpu()
    return LensOfTask(log_probs.numpy(), ranks.numpy(), far.numpy())


def _predicts_first(batch: OptionBatch) -> Tensor:
    """Whether each prediction of a batch is of an option's first token, bool of shape `(predictions,)`."""
    last = batch.prompt_mask.sum(1) - 1
    starts = torch.arange(len(last)) * batch.input_ids.shape[1] + last
    return torch.isin(batch.positions, starts)


@dataclass
class Lenses:
    """Both lenses of a model, and what they see; results are kept on disk.

    Attributes:
        lm: The model.
        layers: The layers that are looked at, ascending; the last one is the model's last.
        kept: Where results are kept, by the model.
        seed: Decides tokens, their order and the sampled vocabulary.
        tuned: How the tuned lens is trained; `None` for the logit lens alone.
        train_texts: Texts that the tuned lens is trained on.
        held_out_texts: Texts on which both are compared with the model.
    """

    lm: LanguageModel
    layers: tuple[int, ...]
    kept: KeptArrays
    seed: int
    tuned: TunedLensSettings | None
    train_texts: Sequence[str]
    held_out_texts: Sequence[str]

    def __post_init__(self) -> None:
        both = set(self.train_texts) & set(self.held_out_texts)
        if both:
            raise ValueError(f"{len(both)} texts are both trained on and held out, such as {min(both)[:60]!r}.")

    @property
    def names(self) -> tuple[str, ...]:
        """The lenses that there are."""
        return LENSES if self.tuned is not None else LENSES[:1]

    def translators(self) -> Translators | None:
        """The tuned lens, trained unless it is kept."""
        if self.tuned is None:
            return None
        found = self.kept.get(self._key, self._train)
        return Translators(self.layers[:-1], *(torch.from_numpy(found[name]) for name in ("matrices", "biases")))

    def of_task(self, answered: AnsweredTask) -> dict[str, tuple[LensOfTask, LensOfTask]]:
        """For each lens, what it sees after the test prompts and after the prompt without content."""
        found = {}
        for name in self.names:
            parts = []
            for questions in (answered.test, answered.content_free):
                key = self._key if name == LENSES[1] else {"layers": list(self.layers)}
                compute = partial(self._look, name, questions)
                parts.append(LensOfTask(**self.kept.get({**key, "lens": name, "of": questions.digest}, compute)))
            found[name] = (parts[0], parts[1])
        return found

    def on_held_out(self) -> dict[str, np.ndarray]:
        """KL(model ‖ lens) on held-out texts, the mean over tokens of each, nats: lens → `(layers, texts)`.

        `unigram` has that of the model's own distribution averaged over training tokens, shape `(1, texts)`.
        """
        return self.kept.get({**self._key, "held out": self._tokens_of(self.held_out_texts)}, self._held_out)

    @cached_property
    def _key(self) -> dict[str, Any]:
        settings = None if self.tuned is None else vars(self.tuned)
        texts = self._tokens_of(self.train_texts)
        return {"tuned lens": settings, "texts": texts, "layers": list(self.layers), "seed": self.seed}

    def _tokens_of(self, texts: Sequence[str]) -> str:
        """A digest of the tokens that the model reads of texts."""
        return digest_of_json(self.lm.backbone.tokenize(texts).text_ids if texts else ())

    def _look(self, name: str, questions: Questions) -> dict[str, np.ndarray]:
        translators = self.translators() if name == LENSES[1] else None
        return vars(look(self.lm, questions, self.layers, translators))

    def _train(self) -> dict[str, np.ndarray]:
        assert self.tuned is not None
        readout, states = Readout(self.lm), self._train_states(self.tuned.tokens)
        validates = torch.arange(len(self.train_texts)) % VALIDATION_SHARE == 0
        train, validation = states.of_texts(~validates), states.of_texts(validates).thinned(VALIDATION_TOKENS)
        seed = derive_seed(self.seed, "tuned lens")
        translators = train_translators(readout, train, validation, self.tuned, seed=seed)
        return {"matrices": translators.matrices.numpy(force=True), "biases": translators.biases.numpy(force=True)}

    def _train_states(self, tokens: int) -> TokenStates:
        seed = derive_seed(self.seed, "tokens of the tuned lens")
        return sampled_states(self.lm, self.train_texts, layers=self.layers, tokens=tokens, seed=seed)

    def _held_out(self) -> dict[str, np.ndarray]:
        assert self.tuned is not None
        readout, tokens = Readout(self.lm), self.tuned.held_out_tokens
        seed = derive_seed(self.seed, "held-out tokens")
        states = sampled_states(self.lm, self.held_out_texts, layers=self.layers, tokens=tokens, seed=seed)
        unigram = mean_distribution(readout, self._train_states(tokens)).clamp(min=1e-30).log()
        final = readout(states.values[-1]).log_softmax(-1).double()
        found = {"unigram": divergence(final, unigram)[None].cpu()}
        for name, translators in zip(LENSES, (None, self.translators()), strict=True):
            found[name] = divergences(readout, states, translators)
        return {name: _by_text(values, states.texts).numpy() for name, values in found.items()}


def _by_text(values: Tensor, texts: Tensor) -> Tensor:
    """Mean over the tokens of each text that has any, shape `(layers, texts)`."""
    _, place = texts.unique(return_inverse=True)
    total = values.new_zeros(len(values), int(place.max()) + 1).index_add_(1, place, values)
    return total / place.bincount()


def lens_profiles(lenses: Lenses, answered: AnsweredTask, reading: Reading) -> Iterator[LayerProfile]:
    """What both lenses see of a task, over layers.

    Yields:
        For each lens `…/log_prob`, `…/log10_rank` and `…/log_odds` of the right answer and `…/kl`, the divergence of
        the model's distribution from the lens's; the first two also after the prompt without content, as a control;
        and `tuned_lens/kl_gain`, by how much the tuned lens is closer.
    """
    labels = answered.labels("test").numpy()
    common: dict[str, Any] = {"task": answered.task.name, "layers": lenses.layers, "reading": reading}
    seen = lenses.of_task(answered)
    for name, (own, content_free) in seen.items():
        quantities: Mapping[str, tuple[str, np.ndarray, np.ndarray]] = {
            "log_prob": (ANSWERS_NATS, own.log_probs, content_free.log_probs),
            "log10_rank": ("decimal logarithm of the rank", own.log10_ranks, content_free.log10_ranks),
        }
        for quantity, (unit, values, free) in quantities.items():
            profile = LayerProfile(
                quantity=f"{name}/{quantity}",
                unit=unit,
                estimates=_untested(_of_right(values, labels), labels),
                **common,
            )
            yield profile
            mean = np.stack([free[:, 0, label] for label in np.unique(labels)]).mean(0)
            yield replace(profile, control="content_free", estimates=Estimates(mean, 1, note=""))
        odds = log_odds_of_right(own.log_probs, labels)
        odds[np.ptp(own.log_probs, axis=1).max(-1) < ROUNDING] = 0  # equal rows: classes cancel, up to rounding
        odds = effect_estimates(odds, labels, alternative="greater", note="")
        yield LayerProfile(quantity=f"{name}/log_odds", unit=ANSWERS_NATS, estimates=odds, **common)
        far = _untested(own.divergences, labels)
        yield LayerProfile(quantity=f"{name}/kl", unit=ANSWERS_NATS, estimates=far, **common)
    if LENSES[1] in seen:
        gain = seen[LENSES[0]][0].divergences - seen[LENSES[1]][0].divergences
        yield _gain(gain, labels, **common)


def held_out_profiles(lenses: Lenses, reading: Reading) -> Iterator[LayerProfile]:
    """The divergence of both lenses on held-out texts, that of the unigram distribution as a control, and the gain."""
    found = lenses.on_held_out()
    common: dict[str, Any] = {"task": HELD_OUT, "layers": lenses.layers, "reading": reading}
    labels = np.zeros(found["unigram"].shape[1], dtype=int)
    for name in lenses.names:
        profile = LayerProfile(
            quantity=f"{name}/kl", unit=ANSWERS_NATS, estimates=_untested(found[name], labels), **common
        )
        yield profile
        unigram = np.repeat(found["unigram"], len(lenses.layers), axis=0)
        yield replace(profile, control="unigram", estimates=_untested(unigram, labels))
    yield _gain(found[LENSES[0]] - found[LENSES[1]], labels, **common)


def _gain(gain: np.ndarray, labels: np.ndarray, **common: Any) -> LayerProfile:
    estimates = effect_estimates(gain, labels, note="")
    return LayerProfile(quantity=f"{LENSES[1]}/kl_gain", unit=ANSWERS_NATS, estimates=estimates, **common)


def _untested(values: np.ndarray, labels: np.ndarray) -> Estimates:
    """Class-balanced means with intervals, of quantities that have no null."""
    return without_null(effect_estimates(values, labels, note=""))


def _of_right(values: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Each row's value of its right option, shape `(layers, rows)`."""
    return values[:, np.arange(len(labels)), labels]
