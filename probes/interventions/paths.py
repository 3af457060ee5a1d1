"""Path patching: the effect of one place of a model on its answer through another place alone.

A *sender* writes something else into the residual stream than it did: what it writes for the source prompt. Only a
*receiver* reads the difference, straight from the stream; every other place puts out what it did for the target prompt,
until the receiver has put out something else, and what follows it goes on freely.

| place | named | writes or reads |
|---|---|---|
| embeddings | `embeddings` | layer 0 (sender only) |
| attention or MLP of block k | `attention.k`, `mlp.k` | what the sublayer adds to the stream |
| head h of block k | `head.k.h` | its part of what the attention adds |
| its query, key or value | `head.k.h.q`, `.k`, `.v` | the stream, for this input of the head alone (receiver only) |
| final | `final` | the stream after the last block (receiver only): the direct effect on the answer |

Where heads share keys and values (grouped-query attention), `head.k.h.k` and `.v` are this head's own view of them: the
other heads of its group read what they did.

Source: Wang et al. 2022 (arXiv:2211.00593); Goldowsky-Dill et al. 2023 (arXiv:2304.05969).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from probes.answers import LanguageModel, OptionBatch
from probes.backbones import Edit
from probes.interventions.edits import add, set_to
from probes.interventions.head_inputs import HEAD_INPUTS, held_inputs, recorded_inputs
from probes.interventions.heads import one_head, patch_heads

_RESIDUAL_TOLERANCE = 0.1
"""Largest difference between the last layer and the sum of what all places write, as a share of the former's size: far
above the rounding of bfloat16 in as many additions, and far below what a norm or a factor in the stream would do."""


@dataclass(frozen=True, order=True)
class Place:
    """A place that writes into the residual stream, or reads it.

    Attributes:
        layer: k of block k; 0 for the embeddings, and one more than there are blocks for `final`.
        site: `embeddings`, `attention`, `mlp`, `head` or `final`.
        head: Number of the head, or −1.
        inputs: What a head that receives reads the difference with: some of `q`, `k` and `v`; `""` for all of them.
    """

    layer: int
    site: str
    head: int = -1
    inputs: str = ""

    @classmethod
    def parse(cls, name: str, lm: LanguageModel) -> Self:
        """A place by its name, such as `final`, `mlp.3`, `head.20.1` or `head.20.1.q`.

        Raises:
            ValueError: The model has no such place.
        """
        blocks, heads = lm.backbone.num_layers, lm.backbone.num_heads
        site, *numbers = name.split(".")
        if name in ("embeddings", "final"):
            return cls(0 if name == "embeddings" else blocks + 1, name)
        inputs = numbers.pop() if site == "head" and len(numbers) == 3 and numbers[2] in tuple(HEAD_INPUTS) else ""
        known = {"attention": 1, "mlp": 1, "head": 2}.get(site) == len(numbers) and all(n.isdigit() for n in numbers)
        if known:
            layer, head = int(numbers[0]), int(numbers[1]) if site == "head" else -1
            if 1 <= layer <= blocks and head < heads:
                return cls(layer, site, head, inputs)
        raise ValueError(
            f"'{lm.backbone.name}' has no place '{name}'. There are final, attention.1 to attention.{blocks}, mlp.1 to "
            f"mlp.{blocks}, and heads head.1.0 to head.{blocks}.{heads - 1}, whose "
            "query, key and value are head.1.0.q, head.1.0.k and head.1.0.v. Set `study.paths.receivers` to some."
        )

    def __str__(self) -> str:
        if self.site in ("embeddings", "final"):
            return self.site
        return f"{self.site}.{self.layer}" + "".join(f".{part}" for part in self._of_head)

    @property
    def _of_head(self) -> tuple[int | str, ...]:
        return (self.head, *([self.inputs] if self.inputs else [])) if self.site == "head" else ()

    def is_before(self, receiver: Place) -> bool:
        """Whether what this place writes can be read by another: it lies in an earlier block, or is its attention."""
        if self.layer == receiver.layer:
            return self.site in ("attention", "head") and receiver.site == "mlp"
        return self.layer < receiver.layer


class PathPatches:
    """Path patching of a batch of prompts; what both prompts write is read once.

    Args:
        lm: The model.
        source: The prompts from which the senders' outputs are taken.
        target: Prompts of equally many tokens, row by row, which the model goes on with.
        positions: The tokens at which senders write something else, bool `(inputs, tokens)`; default all.

    Raises:
        ValueError: The layers of the model are not sums of what its sublayers write.
    """

    def __init__(
        self, lm: LanguageModel, source: OptionBatch, target: OptionBatch, positions: Tensor | None = None
    ) -> None:
        self.lm, self.target = lm, target
        read = lm.backbone.hidden_states
        sides = {"source": source, "target": target}
        self._written = {
            (side, site): read(batch.input_ids, batch.attention_mask, layers="all", site=site)
            for side, batch in sides.items()
            for site in ("attention", "mlp")
        }
        self._stream = read(target.input_ids, target.attention_mask, layers="all")
        self._source_start = read(source.input_ids, source.attention_mask, layers=[0])[0]
        self._source, self._source_heads = source, dict[int, Tensor]()
        mask = torch.ones_like(target.attention_mask) if positions is None else positions
        self._positions = mask.to(self._source_start.device).bool()
        self._refuse_other_sums()

    def log_probs_through(self, receivers: Sequence[Place], senders: Sequence[Place]) -> Tensor:
        """Log-probabilities of the target's predicted tokens, when receivers read what senders write for the source.

        Several receivers put out something else at once; several senders write at once.

        Args:
            receivers: Each with a sender before it, or nothing changes there.
            senders: Places.

        Returns:
            nats, float32, shape `(predictions,)`.
        """
        last = self.lm.backbone.num_layers
        inner = _joined([receiver for receiver in receivers if receiver.site != "final"])
        edits = [self._received(receiver, senders) for receiver in inner]
        if (
            any(receiver.site == "final" for receiver in receivers)
            and (difference := self._difference(senders)) is not None
        ):
            edits.append(add(difference, layer=last))
        start = min((receiver.layer - 1 for receiver in inner), default=last)
        backbone = self.lm.backbone
        with torch.no_grad(), backbone.resume(start, self._stream[start]), backbone.intervene(edits):
            return self.lm.token_log_probs(self.target)

    def _received(self, receiver: Place, senders: Sequence[Place]) -> Edit:
        """The receiver's output when it reads the senders' difference, as an edit that puts it there."""
        layer, backbone = receiver.layer, self.lm.backbone
        site = "heads" if receiver.site == "head" else receiver.site
        before = [sender for sender in senders if sender.layer < layer]
        same = [sender for sender in senders if sender.layer == layer and sender.is_before(receiver)]
        stream = self._stream[layer - 1]
        difference = self._difference(before)
        if difference is not None:
            stream = (stream.float() + difference).to(stream.dtype)
        edits = []
        if receiver.site == "mlp":  # it reads the attention of its own block: as for the target, but for senders
            attention, own = self._written["target", "attention"][layer], self._difference(same)
            if own is not None:
                attention = (attention.float() + own).to(attention.dtype)
            edits.append(set_to(attention, layer=layer, site="attention"))
        with self._held(receiver), backbone.resume(layer - 1, stream), backbone.intervene(edits):
            put_out = backbone.hidden_states(
                self.target.input_ids, self.target.attention_mask, layers=[layer], site=site
            )[layer]
        if receiver.site == "head":
            return patch_heads(put_out, one_head(receiver.head, backbone.num_heads), layer=layer)
        return set_to(put_out, layer=layer, site=site)

    @contextmanager
    def _held(self, receiver: Place) -> Iterator[None]:
        """Within the context, the inputs with which a head does not receive are as for the target."""
        held = "".join(letter for letter in HEAD_INPUTS if receiver.inputs and letter not in receiver.inputs)
        if not held:
            yield
            return
        layer, backbone, ids = receiver.layer, self.lm.backbone, self.target.input_ids
        stack = backbone.main_stack
        with (
            recorded_inputs(stack, layer, backbone.name) as recorded,
            backbone.resume(layer - 1, self._stream[layer - 1]),
        ):
            backbone.hidden_states(ids, self.target.attention_mask, layers=[layer], site="heads")
        with held_inputs(stack, layer, recorded, held):
            yield

    def _difference(self, senders: Sequence[Place]) -> Tensor | None:
        """What senders write for the source less what they do for the target, float32 `(inputs, tokens, features)`."""
        parts = [self._written_otherwise(sender) for sender in senders]
        if not parts:
            return None
        total = parts[0]
        for part in parts[1:]:
            total = total + part
        return torch.where(self._positions[..., None], total, 0.0)

    def _written_otherwise(self, sender: Place) -> Tensor:
        if sender.site == "embeddings":
            return self._source_start.float() - self._stream[0].float()
        if sender.site == "head":
            return self._of_head(sender)
        of_target, of_source = (self._written[side, sender.site][sender.layer] for side in ("target", "source"))
        return of_source.float() - of_target.float()

    def _of_head(self, sender: Place) -> Tensor:
        """The head's part goes through its block's output projection, and whatever norm follows that."""
        layer, backbone = sender.layer, self.lm.backbone
        if layer not in self._source_heads:
            ids, mask = self._source.input_ids, self._source.attention_mask
            read = backbone.hidden_states(ids, mask, layers="all", site="heads")
            self._source_heads = {int(name): own for name, own in read.items()}
        edit = patch_heads(self._source_heads[layer], one_head(sender.head, backbone.num_heads), layer=layer)
        with backbone.resume(layer - 1, self._stream[layer - 1]), backbone.intervene([edit]):
            written = backbone.hidden_states(
                self.target.input_ids, self.target.attention_mask, layers=[layer], site="attention"
            )[layer]
        return written.float() - self._written["target", "attention"][layer].float()

    def _refuse_other_sums(self) -> None:
        last = self.lm.backbone.num_layers
        written = (own.float() for site in ("attention", "mlp") for own in self._written["target", site].values())
        total = self._stream[0].float() + sum(written)
        mask = self.target.attention_mask.bool().to(total.device)
        stream = self._stream[last].float()[mask]
        if (total[mask] - stream).norm() > _RESIDUAL_TOLERANCE * stream.norm():
            raise ValueError(
                f"The layers of '{self.lm.backbone.name}' are not sums of what its sublayers write (a norm follows the "
                "sum, or a factor), so that paths through its residual stream are not defined. Set "
                "`study.paths.receivers=[]`."
            )


def _joined(receivers: Sequence[Place]) -> list[Place]:
    """Receivers that are inputs of the same head as one, which reads the difference with all of them."""
    inputs: dict[Place, set[str]] = {}
    for place in receivers:
        inputs.setdefault(replace(place, inputs=""), set()).update(place.inputs or HEAD_INPUTS)
    whole = set(HEAD_INPUTS)
    return [replace(place, inputs="" if own == whole else "".join(sorted(own))) for place, own in inputs.items()]


def places_before(receiver: Place, site: str, lm: LanguageModel) -> list[Place]:
    """All senders of one site that lie before a receiver, ascending.

    Args:
        receiver: Where they are read.
        site: `embeddings`, `attention`, `mlp` or `head`.
        lm: The model.
    """
    if site == "embeddings":
        return [Place(0, site)]
    heads = range(lm.backbone.num_heads) if site == "head" else (-1,)
    every = [Place(layer, site, head) for layer in range(1, lm.backbone.num_layers + 1) for head in heads]
    return [place for place in every if place.is_before(receiver)]
