"""Training of a tuned lens: the translators of all layers in one bank, towards the model's own distribution."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from probes.interventions.lenses import Readout, TokenStates, Translators, divergence, divergences
from probes.progress import tracked


@dataclass(frozen=True, kw_only=True)
class TunedLensSettings:
    """How a tuned lens is trained.

    Attributes:
        texts: Training texts at most, of which every fifth is for validation.
        tokens: Sampled tokens of these texts at most.
        held_out_tokens: Sampled tokens of the texts on which both lenses are measured.
        steps: Steps of Adam.
        batch_tokens: Tokens of one step; all layers read the same.
        learning_rate: Of the first step; it falls to 0 linearly.
        vocabulary: Tokens of the vocabulary that one step looks at: half of them the most likely ones, the others at
            random, which stand for all that are left out. A smaller vocabulary is looked at as a whole.
        check_every: Steps between two looks at the validation texts.

    Raises:
        ValueError: A field is out of its range.
    """

    texts: int = 512
    tokens: int = 8192
    held_out_tokens: int = 512
    steps: int = 200
    batch_tokens: int = 128
    learning_rate: float = 3e-3
    vocabulary: int = 4096
    check_every: int = 50

    def __post_init__(self) -> None:
        for key, least in {"texts": 5, "tokens": 10, "held_out_tokens": 2, "steps": 1, "batch_tokens": 1,
                           "vocabulary": 2, "check_every": 1}.items():  # fmt: skip
            if getattr(self, key) < least:
                raise ValueError(f"`study.tuned.{key}` must be at least {least}; got {getattr(self, key)}.")
        if not self.learning_rate > 0:
            raise ValueError(f"`study.tuned.learning_rate` must be above 0; got {self.learning_rate}.")


def train_translators(
    readout: Readout, train: TokenStates, validation: TokenStates, settings: TunedLensSettings, *, seed: int
) -> Translators:
    """Train the translators of all layers but the last to minimise KL(model ‖ lens), mean over tokens.

    All start as the identity. Each layer returns to its best state on the validation tokens, which may be the identity;
    no layer's result depends on the others. Features are standardised by the training tokens while they are trained:
    a few features of language models are many times larger than all others. The last layer has none.

    Args:
        readout: Final norm and head.
        train: Tokens of training texts.
        validation: Tokens of other texts, at the same layers.
        settings: Steps, rates and sizes.
        seed: Decides the order of tokens and the sampled vocabulary.

    Source:
        Belrose et al. 2023, "Eliciting latent predictions from transformers with the tuned lens".
    """
    if len(train.layers) == 1:  # the last layer is the model's own
        features = train.values.shape[-1]
        return Translators((), torch.empty(0, features, features), torch.empty(0, features))
    bank = _Bank(train)
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam([bank.matrices, bank.biases], lr=settings.learning_rate)
    best = torch.full((len(bank.layers),), math.inf, dtype=torch.float64)
    kept = bank.translators()
    likely = torch.zeros(readout.vocabulary, device=train.values.device)
    order = torch.empty(0, dtype=torch.long)
    for step in tracked(range(settings.steps + 1), "steps of the tuned lens", total=settings.steps + 1):
        if step % settings.check_every == 0 or step == settings.steps:
            now = bank.translators()
            loss = divergences(readout, validation, now)[:-1].mean(1)
            better = loss < best
            best = torch.where(better, loss, best)
            chosen = better.to(kept.matrices.device)
            kept = Translators(
                bank.layers,
                torch.where(chosen[:, None, None], now.matrices, kept.matrices),
                torch.where(chosen[:, None], now.biases, kept.biases),
            )
            likely = _likely_tokens(readout, validation, now)
        if step == settings.steps:
            break
        if len(order) < settings.batch_tokens:
            order = torch.randperm(train.values.shape[1], generator=generator)
        some, order = order[: settings.batch_tokens], order[settings.batch_tokens :]
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * (1 - step / settings.steps)
        loss = _loss(readout, bank, train.values[:, some], likely, settings.vocabulary, generator)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return kept


class _Bank:
    """Translators of all layers in standardised coordinates: h + s (A (h − m) / d + b), which begins as h."""

    def __init__(self, train: TokenStates) -> None:
        self.layers = train.layers[:-1]
        states = train.values[:-1].float()
        self.mean = states.mean(1, keepdim=True)  # (layers, 1, features)
        deviation = states.std(1, keepdim=True)
        typical = deviation.median(2, keepdim=True).values
        self.deviation = torch.maximum(deviation, 1e-3 * typical.clamp(min=1e-12))
        self.scale = typical
        layers, _, features = states.shape
        place = states.device
        self.matrices = torch.zeros(layers, features, features, device=place, requires_grad=True)
        self.biases = torch.zeros(layers, 1, features, device=place, requires_grad=True)

    def __call__(self, states: Tensor) -> Tensor:
        """Translate float32 states, shape `(layers, tokens, features)`."""
        standard = (states - self.mean) / self.deviation
        return states + self.scale * torch.baddbmm(self.biases, standard, self.matrices.transpose(1, 2))

    @torch.no_grad()
    def translators(self) -> Translators:
        """The same maps of states as they are."""
        matrices = self.scale * self.matrices / self.deviation  # rows are scaled by s, columns by 1 / d
        biases = self.scale * self.biases - self.mean @ matrices.transpose(1, 2)
        return Translators(self.layers, matrices.clone(), biases[:, 0].clone())


@torch.no_grad()
def _likely_tokens(readout: Readout, states: TokenStates, translators: Translators) -> Tensor:
    """The largest probability that any layer's lens gives to each token of the vocabulary, shape `(vocabulary,)`."""
    largest = torch.zeros(readout.vocabulary, device=states.values.device)
    some = torch.arange(min(64, states.values.shape[1]))
    for place, layer in enumerate(states.layers):
        likely = readout(translators(states.values[place, some], layer)).softmax(-1)
        largest = torch.maximum(largest, likely.max(0).values)
    return largest


def _loss(
    readout: Readout, bank: _Bank, states: Tensor, likely: Tensor, size: int, generator: torch.Generator
) -> Tensor:
    """KL divergence on some of the vocabulary, mean over tokens and summed over layers, up to a constant.

    Tokens of the vocabulary that are drawn at random stand for 1 / π others, π being the probability of being drawn:
    both sums over the vocabulary, Σ p log q and the normaliser of q, are then right in the mean (Horvitz and Thompson).
    """
    with torch.no_grad():
        final = readout(states[-1]).softmax(-1)  # (tokens, vocabulary)
    hidden = bank(states[:-1].float())
    if size >= readout.vocabulary:
        log_final = final.clamp(min=1e-30).log()
        return divergence(log_final, readout(hidden).log_softmax(-1)).mean(1).sum()
    ranked = torch.maximum(likely, final.max(0).values).argsort(descending=True)
    first, rest = ranked[: size // 2], ranked[size // 2 :]
    drawn = rest[torch.randperm(len(rest), generator=generator)[: size - size // 2].to(rest.device)]
    tokens = torch.cat([first, drawn])
    weight = torch.ones(len(tokens), device=tokens.device)
    weight[len(first) :] = len(rest) / len(drawn)
    logits = readout(hidden, tokens)  # (layers, tokens of the batch, size)
    normaliser = (logits + weight.log()).logsumexp(-1)
    crossed = (final[:, tokens] * weight * logits).sum(-1)
    return (final.sum(-1) * normaliser - crossed).mean(1).sum()
