"""A causal language model with its head, and the backbone inside it that can be read and edited."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor
from transformers import PreTrainedModel

from probes.answers.answer_model import AnswerModel
from probes.answers.examples import end_token
from probes.answers.greedy import greedy_answers
from probes.answers.questions import OptionBatch, Questions
from probes.backbones import FrozenBackbone


class LanguageModel:
    """A frozen causal language model: `backbone` reads and edits its layers, and the edits change its answers.

    Args:
        model: A causal language model with its head; its gradients are switched off.
        tokenizer: Its tokenizer.
        **options: Keyword arguments of `FrozenBackbone`, such as `name`.

    Attributes:
        backbone: The backbone around the same weights.
        answers: Computes logits.

    Raises:
        ValueError: The model has no language-model head.

    >>> import torch
    >>> from probes.backbones import tiny_backbone
    >>> from probes.interventions import set_to
    >>> lm = LanguageModel.of(tiny_backbone())
    >>> ids = lm.backbone.tokenize(["a b", "c d"]).ids
    >>> questions = Questions.of(ids, [[[100], [101]]] * 2)
    >>> with lm.backbone.intervene([set_to(torch.zeros(32), layer="final")]):
    ...     lm.log_probs(questions).round(decimals=3).tolist()  # a head without bias: uniform over 257 tokens
    [[-5.549, -5.549], [-5.549, -5.549]]
    """

    def __init__(self, model: PreTrainedModel, tokenizer: Any, **options: Any) -> None:
        if model.base_model is model or model.get_output_embeddings() is None:
            raise ValueError(
                f"A {type(model).__name__} has no language-model head. Load it as a causal language model."
            )
        model.requires_grad_(requires_grad=False)
        self.backbone = FrozenBackbone(model, tokenizer, **options)
        self.answers = AnswerModel(model.eval())

    @classmethod
    def of(cls, backbone: FrozenBackbone) -> Self:
        """Load the weights of a backbone with the language-model head; it may be discarded afterwards.

        Raises:
            ValueError: It is an encoder or an encoder–decoder, was wrapped with an adapter, or has no source to load
                from.
        """
        return cls(
            backbone.load_with_head(with_adapter=True),
            backbone.tokenizer.wrapped,
            name=backbone.name,
            stack=backbone.stacks,
            layers=backbone.layer_spec,
            chat_template=backbone.tokenizer.chat_template,
        )

    @property
    def model(self) -> PreTrainedModel:
        """The transformers model with its head."""
        return self.answers.model

    @property
    def device(self) -> torch.device:
        """Where token ids go."""
        return self.backbone.device

    @torch.no_grad()
    def log_probs(self, questions: Questions) -> Tensor:
        """Log-probability of each option after its prompt, the sum over its tokens, nats.

        Returns:
            float64 on the CPU, shape `(rows, options)`.
        """
        total = torch.zeros(questions.rows, questions.options, dtype=torch.float64)
        for batch in questions.batches:
            total.view(-1).index_add_(0, batch.cells, self.token_log_probs(batch).double().cpu())
        return total

    def token_log_probs(self, batch: OptionBatch) -> Tensor:
        """Log-probability of each predicted token of a batch, nats, float32, shape `(predictions,)`."""
        logits = self.answers.logits_at(batch.input_ids.to(self.device), batch.positions.to(self.device))
        return logits.log_softmax(-1).gather(1, batch.targets.to(self.device)[:, None])[:, 0]

    def greedy_texts(self, prompts: Sequence[str], *, max_new_tokens: int, tokens_per_batch: int = 2048) -> list[str]:
        """The text that greedy decoding writes after each prompt, without white space at both ends.

        Args:
            prompts: What the model reads.
            max_new_tokens: Tokens of an answer at most.
            tokens_per_batch: Tokens of prompts and answers in one batch at most.
        """
        answers = greedy_answers(
            self.answers,
            list(self.backbone.tokenize(prompts).ids),
            end_id=end_token(self.backbone),
            max_new_tokens=max_new_tokens,
            longest=self.backbone.tokenizer.max_length,
            tokens_per_batch=tokens_per_batch,
        )
        tokenizer = self.backbone.tokenizer.wrapped
        return [tokenizer.decode(answer, skip_special_tokens=True).strip() for answer in answers]
