"""The residual streams of all rows of a task at one layer, carried on from layer to layer.

An edit at layer k then costs the blocks after k only, and what is fitted at a layer sees what earlier edits have left.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from probes.answers import LanguageModel, OptionBatch, Questions
from probes.backbones import Edit
from probes.interventions.erasers import Eraser
from probes.interventions.moments import LabelMoments

EditsOf = Callable[[OptionBatch], Sequence[Edit]]
"""The edits of a batch, whose masks have the batch's shape."""

GROUPS = {"all": ("last", "earlier"), "last": ("last",)}
"""`positions` of a study → groups of a prompt's tokens, each of which has erasers of its own."""


def token_groups(batch: OptionBatch, positions: str) -> dict[str, Tensor]:
    """The tokens of each group, bool of shape `(inputs, tokens)`.

    Args:
        batch: Prompts with options; tokens of options are in no group.
        positions: `last`: the last token of the prompt, where the answer is predicted; `all`: also the `earlier` ones.

    Raises:
        ValueError: The positions are unknown.
    """
    if positions not in GROUPS:
        raise ValueError(f"Unknown positions {positions!r}. There are {', '.join(GROUPS)}.")
    prompt = batch.prompt_mask.bool()
    last = prompt & (batch.prompt_mask.cumsum(1) == batch.prompt_mask.sum(1, keepdim=True))
    groups = {"last": last, "earlier": prompt & ~last}
    return {name: groups[name] for name in GROUPS[positions]}


@dataclass(frozen=True)
class Streams:
    """Hidden states of all batches of some questions at one layer.

    Attributes:
        lm: The model.
        questions: Prompts and options.
        layer: k, the layer.
        hidden: Of each batch, shape `(inputs, tokens, features)`, in the model's dtype.
    """

    lm: LanguageModel
    questions: Questions
    layer: int
    hidden: tuple[Tensor, ...]

    @classmethod
    def at_input(cls, lm: LanguageModel, questions: Questions) -> Streams:
        """Layer 0."""
        read = (lm.backbone.hidden_states(b.input_ids, b.attention_mask, layers=[0])[0] for b in questions.batches)
        return cls(lm, questions, 0, tuple(read))

    def carried(self, layer: int, edits_of: EditsOf | None = None) -> Streams:
        """Run the blocks up to another layer, with edits on the way; with the same layer, only its edits."""
        if layer == self.layer and edits_of is None:
            return self
        backbone, hidden = self.lm.backbone, []
        for batch, own in zip(self.questions.batches, self.hidden, strict=True):
            edits = () if edits_of is None else edits_of(batch)
            with backbone.resume(self.layer, own), backbone.intervene(edits, attention_mask=batch.attention_mask):
                read = backbone.hidden_states(batch.input_ids, batch.attention_mask, layers=[layer])
            hidden.append(read[layer])
        return Streams(self.lm, self.questions, layer, tuple(hidden))

    @torch.no_grad()
    def log_probs(self, edits_of: EditsOf | None = None) -> Tensor:
        """Log-probabilities of the options, as `LanguageModel.log_probs`, when the streams go on from here."""
        total = torch.zeros(self.questions.rows, self.questions.options, dtype=torch.float64)
        backbone = self.lm.backbone
        for batch, own in zip(self.questions.batches, self.hidden, strict=True):
            edits = () if edits_of is None else edits_of(batch)
            with backbone.resume(self.layer, own), backbone.intervene(edits, attention_mask=batch.attention_mask):
                of_tokens = self.lm.token_log_probs(batch)
            total.view(-1).index_add_(0, batch.cells, of_tokens.double().cpu())
        return total

    def moments(self, labels: Tensor, classes: int, positions: str) -> dict[str, LabelMoments]:
        """Moments of the tokens of each group, every token with the label of its row.

        Args:
            labels: Class of each row, int64, shape `(rows,)`.
            classes: Number of classes.
            positions: As in `token_groups`.
        """
        found = {name: LabelMoments(self.hidden[0].shape[-1], classes) for name in GROUPS[positions]}
        for batch, hidden in zip(self.questions.batches, self.hidden, strict=True):
            own = labels[batch.rows][:, None].expand(batch.prompt_mask.shape)
            for name, mask in token_groups(batch, positions).items():
                found[name].update(hidden[mask.to(hidden.device)], own[mask])
        return found


def logit_lens(streams: Streams) -> Tensor:
    """Log-probabilities of the options as if the blocks after this layer were not there: final norm and head alone.

    At the last layer they are the model's own, to the bit.

    Source:
        nostalgebraist 2020, "interpreting GPT: the logit lens".
    """
    return Streams(streams.lm, streams.questions, streams.lm.backbone.num_layers, streams.hidden).log_probs()


ErasersAt = Mapping[int, Mapping[str, Eraser]]
"""Layer → group of tokens → eraser."""


def erasing(erasers: ErasersAt, positions: str) -> EditsOf:
    """The edits that erase at each layer in each group of tokens."""

    def edits_of(batch: OptionBatch) -> list[Edit]:
        groups = token_groups(batch, positions)
        return [
            eraser.edit(layer, positions=groups[name])
            for layer, by_group in erasers.items()
            for name, eraser in by_group.items()
            if eraser.rank > 0
        ]

    return edits_of


def erasers_from_layer_on(
    streams: Streams,
    make: Callable[[LabelMoments], Eraser],
    labels: Tensor,
    classes: int,
    positions: str,
) -> dict[int, dict[str, Eraser]]:
    """Erasers of this layer and of all after it, each fitted to what the earlier ones have left.

    Args:
        streams: Of training rows, at the first layer.
        make: Makes an eraser from moments.
        labels: Class of each row.
        classes: Number of classes.
        positions: As in `token_groups`.

    Source:
        Concept scrubbing, Belrose et al. 2023, section 6.
    """
    fitted: dict[int, dict[str, Eraser]] = {}
    last = streams.lm.backbone.num_layers
    for layer in range(streams.layer, last + 1):
        moments = streams.moments(labels, classes, positions)
        fitted[layer] = {name: make(own) for name, own in moments.items()}
        if layer < last:
            streams = streams.carried(layer + 1, erasing({layer: fitted[layer]}, positions))
    return fitted
