"""Activations of one prompt, or of another model, patched into a pass: which of them carry the answer?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
import torch
from torch import Tensor

from probes.answers import LanguageModel, OptionBatch, Questions, answer_ids
from probes.backbones import Edit
from probes.backbones.structure import EDITED_SITES
from probes.interventions import KeptArrays, PromptPair, check_kinds, set_to
from probes.interventions.heads import one_head, patch_heads
from probes.values import SITES

POSITIONS = ("changed", "between", "last", "all")
PATCHED_PAIRS = "study.patching.pairs"
"""The config key that names kinds of pairs."""


@dataclass(frozen=True, kw_only=True)
class PatchingSettings:
    """What is patched, and where.

    Attributes:
        pairs: Kinds of generated pairs: some of `agreement`, `sentiment`, `facts`, `boxes`.
        count: Pairs of each kind at most.
        sites: Some of `residual`, `attention`, `mlp`, and `heads`: each head by itself.
        positions: Groups of tokens: those that are `changed` between the two prompts; unchanged ones `between` the
            first changed one and the last token; the `last` one; `all`.
        every: The last layer and every so many layers before it are patched.
        tokens_per_batch: Tokens of one pass at most.

    Raises:
        ValueError: A field is out of its range.
    """

    pairs: Sequence[str] = ("agreement", "sentiment", "facts", "boxes")
    count: int = 32
    sites: Sequence[str] = SITES
    positions: Sequence[str] = ("changed", "between", "last")
    every: int = 3
    tokens_per_batch: int = 1024

    def __post_init__(self) -> None:
        check_kinds(self.pairs, key=PATCHED_PAIRS)
        for key, available in (("sites", EDITED_SITES), ("positions", POSITIONS)):
            unknown = [name for name in getattr(self, key) if name not in available]
            if unknown or not getattr(self, key):
                raise ValueError(f"Unknown {key} {unknown}. There are {list(available)}. Set `study.patching.{key}`.")
        for key, least in {"count": 4, "every": 1, "tokens_per_batch": 1}.items():
            if getattr(self, key) < least:
                raise ValueError(f"`study.patching.{key}` must be at least {least}; got {getattr(self, key)}.")


def pair_questions(lm: LanguageModel, pairs: Sequence[PromptPair], side: str, *, tokens_per_batch: int) -> Questions:
    """The `clean` or `corrupted` prompts; the options are the answer to the clean one, then to the corrupted one."""
    prompts = [getattr(pair, side) for pair in pairs]
    options = [
        answer_ids(lm.backbone, [getattr(pair, answer) for pair in pairs], prompts)
        for answer in ("clean_answer", "corrupted_answer")
    ]
    ids = lm.backbone.tokenize(prompts).ids
    answers = list(zip(*options, strict=True))
    return Questions.of(ids, answers, tokens_per_batch=tokens_per_batch, pad_id=lm.backbone.pad_id)


@dataclass
class Patching:
    """Patches the activations of source prompts in a source model into target prompts in a target model.

    The prompts of both sides have equally many tokens, row by row. For patching between prompts, both models are one;
    for patching between models (CMAP), both questions are.

    Attributes:
        source: The model whose activations are taken.
        target: The model that goes on with them.
        source_questions: The prompts that the source reads.
        target_questions: The prompts that the target reads.
        kept: Where results are kept, by the target model.
        key: What else decides the results: the source model.
        changed_from: Questions that differ from the target's where a fact is changed, for groups of positions.
    """

    source: LanguageModel
    target: LanguageModel
    source_questions: Questions
    target_questions: Questions
    kept: KeptArrays
    key: str
    changed_from: Questions

    def answers(self) -> tuple[np.ndarray, np.ndarray]:
        """Log-odds of the first option in the source and in the target without patches, each `(rows,)`."""
        found = self.kept.get(
            {"patch": "unedited", **self.questions_key},
            lambda: {
                "source": self.source.log_probs(self.source_questions).numpy(),
                "target": self.target.log_probs(self.target_questions).numpy(),
            },
        )
        return log_odds(found["source"]), log_odds(found["target"])

    def at(self, layer: int, site: str, positions: Sequence[str]) -> dict[str, np.ndarray]:
        """Log-odds of the first option in the target, patched at a layer and site.

        Returns:
            Group of positions → `(rows,)`; at the site `heads`, where each is patched by itself, `(heads, rows)`.
        """
        key = {"patch": site, "layer": layer, "positions": list(positions), **self.questions_key}
        return {
            name: log_odds(found)
            for name, found in self.kept.get(key, partial(self._compute, layer, site, positions)).items()
        }

    @cached_property
    def questions_key(self) -> dict[str, str]:
        """What decides the results besides the target model and what is patched where."""
        own = (self.source_questions, self.target_questions, self.changed_from)
        return {"questions": " ".join(questions.digest for questions in own), "source": self.key}

    def _compute(self, layer: int, site: str, positions: Sequence[str]) -> dict[str, np.ndarray]:
        heads = self.target.backbone.num_heads if site == "heads" else 1
        total = torch.zeros(len(positions), heads, self.target_questions.rows, 2, dtype=torch.float64)
        start = layer if site == "residual" else layer - 1
        batches = (self.source_questions.batches, self.target_questions.batches, self.changed_from.batches)
        for theirs, own, other in zip(*batches, strict=True):
            taken = self.source.backbone.hidden_states(
                theirs.input_ids, theirs.attention_mask, layers=[layer], site=site
            )[layer]
            backbone = self.target.backbone
            before = backbone.hidden_states(own.input_ids, own.attention_mask, layers=[start])[start]
            groups = changed_groups(own, other)
            for place, name in enumerate(positions):
                for head, edit in enumerate(_edits(taken, groups[name], layer, site, heads)):
                    with torch.no_grad(), backbone.resume(start, before), backbone.intervene([edit]):
                        of_tokens = self.target.token_log_probs(own)
                    total[place, head].view(-1).index_add_(0, own.cells, of_tokens.double().cpu())
        found = total if site == "heads" else total[:, 0]
        return {name: found[place].numpy() for place, name in enumerate(positions)}


def _edits(taken: Tensor, mask: Tensor, layer: int, site: str, heads: int) -> list[Edit]:
    """What puts activations in their place: one edit, or one for each head."""
    if site != "heads":
        return [set_to(taken, layer=layer, site=site, positions=mask)]
    return [patch_heads(taken, one_head(head, heads), layer=layer, positions=mask) for head in range(heads)]


def changed_groups(batch: OptionBatch, other: OptionBatch) -> dict[str, Tensor]:
    """Groups of the prompts' tokens by where two batches differ, bool of shape `(inputs, tokens)`; see `POSITIONS`."""
    prompt = batch.prompt_mask.bool()
    changed = (batch.input_ids != other.input_ids) & prompt
    last = prompt & (batch.prompt_mask.cumsum(1) == batch.prompt_mask.sum(1, keepdim=True))
    after_first = changed.cumsum(1) > 0
    return {
        "changed": changed,
        "between": prompt & after_first & ~changed & ~last,
        "last": last,
        "all": batch.attention_mask.bool(),
    }


def log_odds(log_probs: np.ndarray) -> np.ndarray:
    """Log-odds of the first of two options, nats, shape `(…)` for `(…, 2)`."""
    return log_probs[..., 0] - log_probs[..., 1]
