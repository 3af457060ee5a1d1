"""A causal language model that answers: logits where answer tokens are predicted, and greedy continuations."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn
from transformers import GenerationConfig, PreTrainedModel

from probes.answers.examples import Example

_EAGER_TOKENS = 256
"""Tokens per row up to which the backward pass of eager attention in bfloat16 is faster on a CPU than that of SDPA."""


class AnswerBatch(NamedTuple):
    """Examples as tensors.

    Attributes:
        input_ids: Right-padded prompts and answers, int64, shape `(rows, tokens)`.
        positions: Where answer tokens are predicted: indices into the flattened `(rows · tokens)` inputs, shape
            `(answer tokens,)`.
        targets: Ids of those answer tokens, int64, shape `(answer tokens,)`.
    """

    input_ids: Tensor
    positions: Tensor
    targets: Tensor

    @classmethod
    def of(cls, examples: Sequence[Example], *, device: torch.device) -> AnswerBatch:
        """Pad examples to the longest; the pad's id has no effect, since no token attends to those on its right."""
        width = max(example.num_inputs for example in examples)
        ids = np.zeros((len(examples), width), dtype=np.int64)
        positions = []
        for row, (prompt, answer) in enumerate(examples):
            ids[row, : len(prompt)] = prompt
            ids[row, len(prompt) : len(prompt) + len(answer) - 1] = answer[:-1]
            first = row * width + len(prompt) - 1  # the last prompt token predicts the first answer token
            positions.append(np.arange(first, first + len(answer)))
        targets = np.concatenate([example.answer for example in examples]).astype(np.int64)
        arrays = (ids, np.concatenate(positions), targets)
        return cls(*(torch.from_numpy(array).to(device, non_blocking=True) for array in arrays))


class AnswerModel(nn.Module):
    """Computes hidden states of all tokens, but logits only where an answer token is predicted.

    Batches are padded on the right and passed without mask or positions: in a causal model no token attends to what
    follows it.

    Args:
        model: A causal language model, with its adapters if it has any.
        autocast: Multiply matrices in bfloat16; on a CPU, batches of short rows then use eager attention.

    Attributes:
        head_is_projection: Whether the model's logits are its last hidden states times the output embeddings, without a
            cap or scale; checked on three tokens. If not, the model computes the logits of all tokens itself.
    """

    def __init__(self, model: PreTrainedModel, *, autocast: bool = False) -> None:
        super().__init__()
        self.model = model
        self.autocast = autocast
        self._eager_when_short = autocast and self.device.type == "cpu" and model._can_set_attn_implementation()
        self.head_is_projection = self._check_head()

    @property
    def device(self) -> torch.device:
        """Where token ids go."""
        return next(self.model.parameters()).device

    def forward(self, batch: AnswerBatch) -> Tensor:
        """Cross-entropy of every answer token, nats, float32, shape `(answer tokens,)`, in the order of the batch."""
        logits = self.logits_at(batch.input_ids, batch.positions)
        return nn.functional.cross_entropy(logits, batch.targets, reduction="none")

    def logits_at(self, input_ids: Tensor, positions: Tensor) -> Tensor:
        """Logits of the next token at some positions.

        Args:
            input_ids: Right-padded texts, int64, shape `(rows, tokens)`.
            positions: Indices into the flattened `(rows · tokens)` inputs, shape `(positions,)`.

        Returns:
            float32, shape `(positions, vocabulary)`.
        """
        with self._precision(input_ids.shape[1]):
            if self.head_is_projection:
                hidden = self._hidden(input_ids).flatten(0, 1)  # (rows · tokens, features)
                return self._project(hidden[positions]).float()
            logits = self.model(input_ids=input_ids, use_cache=False).logits
            return logits.flatten(0, 1)[positions].float()

    @torch.no_grad()
    def greedy_continuation(self, input_ids: Tensor, *, end_id: int, max_new_tokens: int) -> Tensor:
        """The most likely next token, again and again, until every row has its end token.

        The model's generation config has no influence: its repetition penalty, beams, forced or suppressed tokens would
        give other answers.

        Args:
            input_ids: Prompts of equal length, without pads, shape `(rows, tokens)`.
            end_id: The token that ends a row; the row is filled with it from there on.
            max_new_tokens: Tokens of a row at most, 1 or more.

        Returns:
            Token ids, shape `(rows, new tokens)`.
        """
        generator: Any = self.model  # `PreTrainedModel` does not declare `generate`; every model with a head has it
        greedy = GenerationConfig(
            do_sample=False, max_new_tokens=max_new_tokens, eos_token_id=end_id, pad_token_id=end_id
        )
        model_config = generator.generation_config
        generator.generation_config = greedy  # else `generate` would take from there what `greedy` leaves open
        try:
            with self._precision(input_ids.shape[1]):
                ones = torch.ones_like(input_ids)
                sequences = generator.generate(input_ids, attention_mask=ones, generation_config=greedy)
        finally:
            generator.generation_config = model_config
        return sequences[:, input_ids.shape[1] :]

    @contextmanager
    def _precision(self, tokens: int) -> Iterator[None]:
        """Autocast if it is on, with the attention kernel that is faster for rows of this many tokens."""
        kernel = self.model.config._attn_implementation or "eager"
        switch = self._eager_when_short and tokens <= _EAGER_TOKENS and kernel != "eager"
        if switch:
            self.model.set_attn_implementation("eager")
        try:
            with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.autocast):
                yield
        finally:
            if switch:
                self.model.set_attn_implementation(kernel)

    def _hidden(self, input_ids: Tensor) -> Tensor:
        """Last hidden states after the final norm, shape `(rows, tokens, features)`."""
        return self.model.base_model(input_ids=input_ids, use_cache=False).last_hidden_state

    def _project(self, hidden: Tensor) -> Tensor:
        return cast(nn.Module, self.model.get_output_embeddings())(hidden)

    @torch.no_grad()
    def _check_head(self) -> bool:
        if self.model.get_output_embeddings() is None:
            return False
        training = self.model.training
        self.model.eval()
        ids = torch.arange(1, 4, device=self.device)[None] % self.model.config.get_text_config().vocab_size
        with self._precision(ids.shape[1]):
            logits = self.model(input_ids=ids, use_cache=False).logits.float()
            projected = self._project(self._hidden(ids)).float()
        self.model.train(training)
        return torch.allclose(logits, projected, rtol=1e-3, atol=1e-3 * logits.abs().max().item())
