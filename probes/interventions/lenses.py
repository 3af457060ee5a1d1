"""Lenses read a layer as if the blocks after it were not there: the logit lens, and the tuned lens with translators.

| lens | hidden states that the final norm and the head get |
|---|---|
| logit lens | those of the layer |
| tuned lens | those of the layer after an affine map of its own, h + A h + b |

Both are the model itself at its last layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from probes.answers import LanguageModel
from probes.backbones import pad_right


@dataclass(frozen=True)
class Translators:
    """The affine map h + A h + b of each layer before the last one.

    Attributes:
        layers: Their numbers.
        matrices: A, float32, shape `(layers, features, features)`.
        biases: b, float32, shape `(layers, features)`.
    """

    layers: tuple[int, ...]
    matrices: Tensor
    biases: Tensor

    def __call__(self, hidden: Tensor, layer: int) -> Tensor:
        """Translate hidden states of a layer, shape `(…, features)`, in their dtype; other layers stay as they are."""
        if layer not in self.layers:
            return hidden
        place = self.layers.index(layer)
        matrix, bias = self.matrices[place].to(hidden.device), self.biases[place].to(hidden.device)
        states = hidden.float()
        return (states + states @ matrix.T + bias).to(hidden.dtype)


class Readout:
    """The final norm and the head of a language model, as a function with gradients.

    Args:
        lm: The model.

    Raises:
        ValueError: The model's logits are not its head applied to its final norm, which is checked on three tokens.
    """

    def __init__(self, lm: LanguageModel) -> None:
        head: Any = lm.model.get_output_embeddings()
        self._weight: Tensor = head.weight
        self._bias: Tensor | None = getattr(head, "bias", None)
        self._norm = lm.backbone.main_stack.final_norm
        self._cap = getattr(lm.model.config.get_text_config(), "final_logit_softcapping", None)
        self.vocabulary = len(self._weight)
        self._check(lm)

    def __call__(self, hidden: Tensor, tokens: Tensor | None = None) -> Tensor:
        """Logits of the next token.

        Args:
            hidden: Hidden states of layer L, or in their place, shape `(…, features)`.
            tokens: Ids of the tokens whose logits are wanted; default all.

        Returns:
            float32, shape `(…, tokens)`.
        """
        weight, bias = self._weight, self._bias
        hidden = hidden.to(weight.dtype)
        if self._norm is not None:
            hidden = self._norm(hidden)
        if tokens is not None:
            weight, bias = weight[tokens], None if bias is None else bias[tokens]
        logits = nn.functional.linear(hidden, weight, bias).float()
        return logits if self._cap is None else self._cap * torch.tanh(logits / self._cap)

    @torch.no_grad()
    def _check(self, lm: LanguageModel) -> None:
        ids = torch.arange(1, 4, device=lm.device)[None] % self.vocabulary
        logits = lm.model(input_ids=ids, use_cache=False).logits.float()
        last = lm.backbone.num_layers
        try:
            own = self(lm.backbone.hidden_states(ids, torch.ones_like(ids), layers=[last])[last])
            alike = torch.allclose(logits, own, rtol=1e-3, atol=1e-2 * logits.abs().max().item())
        except RuntimeError:  # another module stands between norm and head, and changes the number of features
            alike = False
        if not alike:
            raise ValueError(
                f"The logits of '{lm.backbone.name}' (a {type(lm.model).__name__}) are not its head applied to its "
                "final norm, so that no tuned lens can be trained for it. Set `study.tuned=null` for the logit lens."
            )


@torch.no_grad()
def lens_logits(lm: LanguageModel, input_ids: Tensor, positions: Tensor, hidden: Tensor) -> Tensor:
    """Logits of the model's own code when given hidden states stand in for those of its last layer.

    Args:
        lm: The model.
        input_ids: Right-padded texts, shape `(batch, tokens)`.
        positions: Indices into the flattened texts, shape `(positions,)`.
        hidden: Shape `(batch, tokens, features)`; with those of the last layer, the logits are the model's to the bit.

    Returns:
        float32, shape `(positions, vocabulary)`.
    """
    with lm.backbone.resume(lm.backbone.num_layers, hidden):
        return lm.answers.logits_at(input_ids.to(lm.device), positions.to(lm.device))


@dataclass(frozen=True)
class TokenStates:
    """Hidden states of sampled tokens at several layers.

    Attributes:
        layers: Their numbers; the last one is the model's last layer.
        values: In the model's dtype, shape `(layers, tokens, features)`.
        texts: Number of each token's text, shape `(tokens,)`.
    """

    layers: tuple[int, ...]
    values: Tensor
    texts: Tensor

    def of_texts(self, wanted: Tensor) -> TokenStates:
        """The tokens of some texts; `wanted` is bool, shape `(texts,)`."""
        chosen = wanted[self.texts]
        return TokenStates(self.layers, self.values[:, chosen], self.texts[chosen])

    def thinned(self, tokens: int) -> TokenStates:
        """At most so many of the tokens, at equal distances."""
        count = self.values.shape[1]
        some = torch.linspace(0, count - 1, min(tokens, count)).round().long()
        return TokenStates(self.layers, self.values[:, some], self.texts[some])


@torch.no_grad()
def sampled_states(
    lm: LanguageModel, texts: Sequence[str], *, layers: Sequence[int], tokens: int, seed: int, batch_size: int = 16
) -> TokenStates:
    """Hidden states of a random sample of the tokens of texts, without the first token of each.

    The first token stands where every text begins, and is in many models hundreds of times larger than all others.

    Args:
        lm: The model.
        texts: What it reads.
        layers: Which layers.
        tokens: Most tokens of all texts together.
        seed: Decides which.
        batch_size: Texts of a pass.

    Raises:
        ValueError: No text has a second token.
    """
    ids = lm.backbone.tokenize(texts).ids
    places = torch.tensor([(text, place) for text, own in enumerate(ids) for place in range(1, len(own))])
    if len(places) == 0:
        raise ValueError(f"None of {len(texts)} texts has two tokens, so that there is nothing to read. Set `suite`.")
    order = torch.randperm(len(places), generator=torch.Generator().manual_seed(seed))[:tokens]
    places = places[order.sort().values]  # text by text
    found, of_text = [], []
    by_length = sorted(places[:, 0].unique().tolist(), key=lambda text: len(ids[text]))
    for start in range(0, len(by_length), batch_size):
        some = by_length[start : start + batch_size]
        padded, mask = pad_right([ids[text] for text in some], length=len(ids[some[-1]]), pad_id=lm.backbone.pad_id)
        read = lm.backbone.hidden_states(padded, mask, layers=list(layers))
        for row, text in enumerate(some):
            own = places[places[:, 0] == text, 1]
            found.append(torch.stack([read[layer][row, own] for layer in layers]))
            of_text.append(torch.full((len(own),), text))
    return TokenStates(tuple(layers), torch.cat(found, dim=1), torch.cat(of_text))


@torch.no_grad()
def divergences(
    readout: Readout, states: TokenStates, translators: Translators | None = None, *, at_once: int = 256
) -> Tensor:
    """KL divergence of each layer's lens from the model's own distribution, KL(model ‖ lens).

    Args:
        readout: Final norm and head.
        states: Of sampled tokens.
        translators: Of the tuned lens; without them, the logit lens.
        at_once: Tokens whose logits are held at once.

    Returns:
        Nats, float64, shape `(layers, tokens)`.
    """
    parts = []
    for some in torch.arange(states.values.shape[1]).split(at_once):
        final = readout(states.values[-1, some]).log_softmax(-1)
        rows = []
        for place, layer in enumerate(states.layers):
            hidden = states.values[place, some]
            lens = readout(hidden if translators is None else translators(hidden, layer)).log_softmax(-1)
            rows.append(divergence(final, lens))
        parts.append(torch.stack(rows))
    return torch.cat(parts, dim=1).double().cpu()


def divergence(log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL(p ‖ q) of distributions in the last axis, nats.

    >>> p = torch.tensor([0.5, 0.5]).log()
    >>> round(divergence(p, torch.tensor([0.25, 0.75]).log()).item(), 4)
    0.1438
    """
    return (log_p.exp() * (log_p - log_q)).sum(-1)


@torch.no_grad()
def mean_distribution(readout: Readout, states: TokenStates, *, at_once: int = 256) -> Tensor:
    """The model's own distribution averaged over tokens: what it says without regard to the text, `(vocabulary,)`."""
    total = torch.zeros(readout.vocabulary, dtype=torch.float64, device=states.values.device)
    for some in torch.arange(states.values.shape[1]).split(at_once):
        total += readout(states.values[-1, some]).softmax(-1).double().sum(0)
    return total / states.values.shape[1]
