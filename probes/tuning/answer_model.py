"""A causal language model as tuning sees it: the loss of answer tokens, without scoring the prompt's."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from probes.tuning.examples import Example

_SHORT = 256
"""Tokens a row up to which plain attention in bfloat16 is differentiated faster on a CPU than torch's fused one."""


class AnswerBatch(NamedTuple):
    """Right-padded inputs `(rows, tokens)`, flat indices `(answer tokens,)` of what predicts them, and their ids."""

    input_ids: Tensor
    positions: Tensor
    targets: Tensor

    @classmethod
    def of(cls, examples: Sequence[Example], *, device: torch.device) -> AnswerBatch:
        """Pad examples to the longest; the pad's id has no effect, since no token sees one to its right."""
        width = max(example.num_inputs for example in examples)
        ids = np.zeros((len(examples), width), dtype=np.int64)
        positions = []
        for row, (prompt, answer) in enumerate(examples):
            ids[row, : len(prompt)] = prompt
            ids[row, len(prompt) : len(prompt) + len(answer) - 1] = answer[:-1]
            first = row * width + len(prompt) - 1
            positions.append(np.arange(first, first + len(answer)))
        targets = np.concatenate([example.answer for example in examples]).astype(np.int64)
        tensors = (ids, np.concatenate(positions), targets)
        return cls(*(torch.from_numpy(array).to(device, non_blocking=True) for array in tensors))


class AnswerModel(nn.Module):
    """Scores answers: hidden states of all tokens, logits only where an answer token is predicted.

    Batches are padded right and no mask or positions are passed: in a causal model no token sees what follows it.

    Args:
        model: A causal language model, adapters and all.
        autocast: Multiply matrices in bfloat16; on a CPU short rows then take plain attention, chosen batch by batch.
    """

    def __init__(self, model: PreTrainedModel, *, autocast: bool = False) -> None:
        super().__init__()
        self.model = model
        self.autocast = autocast
        self._may_switch = autocast and self.device.type == "cpu" and model._can_set_attn_implementation()
        self.own_logits = not self._head_is_all()

    @property
    def device(self) -> torch.device:
        """Where token ids go."""
        return next(self.model.parameters()).device

    def forward(self, batch: AnswerBatch) -> Tensor:
        """Cross-entropy of every answer token, nats, float32, shape `(answer tokens,)`, in the order of the batch."""
        with self._precision(batch.input_ids.shape[1]):
            if self.own_logits:
                logits = self.model(input_ids=batch.input_ids, use_cache=False).logits
                logits = logits.flatten(0, 1)[batch.positions]
            else:
                hidden = self._hidden(batch.input_ids).flatten(0, 1)
                logits = self._head(hidden[batch.positions])
        return nn.functional.cross_entropy(logits.float(), batch.targets, reduction="none")

    @torch.no_grad()
    def next_token(self, input_ids: Tensor, attention_mask: Tensor, cache: Any) -> tuple[Tensor, Any]:
        """Likeliest next token `(rows,)` of rows without pads, and the cache for the token after.

        Args:
            input_ids: What the cache has not seen yet, shape `(rows, tokens)`.
            attention_mask: 1 for every token so far, shape `(rows, all tokens)`.
            cache: What the last call gave; `None` at first.
        """
        options: dict[str, Any] = {"past_key_values": cache, "use_cache": True, "attention_mask": attention_mask}
        if "logits_to_keep" in inspect.signature(self.model.forward).parameters:
            options["logits_to_keep"] = 1
        with self._precision(attention_mask.shape[1]):
            output = self.model(input_ids=input_ids, **options)
        return output.logits[:, -1].argmax(-1), output.past_key_values

    @contextmanager
    def _precision(self, tokens: int) -> Iterator[None]:
        """Multiply in the precision asked for, attention over so many tokens by the kernel that suits it."""
        own = self.model.config._attn_implementation or "eager"
        plain = self._may_switch and tokens <= _SHORT and own != "eager"
        if plain:
            self.model.set_attn_implementation("eager")
        try:
            with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.autocast):
                yield
        finally:
            if plain:
                self.model.set_attn_implementation(own)

    def _hidden(self, input_ids: Tensor) -> Tensor:
        return self.model.base_model(input_ids=input_ids, use_cache=False).last_hidden_state

    def _head(self, hidden: Tensor) -> Tensor:
        return cast(nn.Module, self.model.get_output_embeddings())(hidden)

    @torch.no_grad()
    def _head_is_all(self) -> bool:
        """Whether logits are the last hidden state projected, with no cap or scale: asked of the model itself."""
        if self.model.get_output_embeddings() is None:
            return False
        training = self.model.training
        self.model.eval()
        ids = torch.arange(1, 4, device=self.device)[None] % self.model.config.get_text_config().vocab_size
        with self._precision(ids.shape[1]):
            own = self.model(input_ids=ids, use_cache=False).logits.float()
            ours = self._head(self._hidden(ids)).float()
        self.model.train(training)
        return torch.allclose(own, ours, rtol=1e-3, atol=1e-3 * own.abs().max().item())
