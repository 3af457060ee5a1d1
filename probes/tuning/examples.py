"""Prompts with their answers as token ids, and which of them make an optimizer step."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from lightning import LightningDataModule

from probes.backbones import FrozenBackbone
from probes.seeds import derive_seed
from probes.tuning.tuning_settings import TuningSettings


@dataclass(frozen=True)
class TuningExamples:
    """Rows of one split, in order: the rendered prompt and the answer in words."""

    prompts: tuple[str, ...]
    targets: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.prompts) != len(self.targets):
            raise ValueError(
                f"Every prompt expects one target; got {len(self.prompts)} prompts and {len(self.targets)} targets."
            )

    def __len__(self) -> int:
        return len(self.prompts)


class Example(NamedTuple):
    """Token ids, int32: the prompt, and the answer that follows it, end token included."""

    prompt: np.ndarray
    answer: np.ndarray

    @property
    def num_inputs(self) -> int:
        """Tokens the model reads: all but the end token, which is only predicted."""
        return len(self.prompt) + len(self.answer) - 1


Encoded = Mapping[str, tuple[Example, ...]]
"""Split → its examples; `train`, `validation` and `test` are always there, the last two possibly empty."""


def encode_splits(
    task: str, backbone: FrozenBackbone, examples: Mapping[str, TuningExamples], settings: TuningSettings
) -> Encoded:
    """Token ids of all splits.

    Args:
        task: What errors call the data.
        backbone: Whose tokenizer, special tokens and truncation side are used.
        examples: `train`, and if there are any `validation` and `test`.
        settings: Limits of length.

    Raises:
        ValueError: No training rows; an unknown split; targets that are empty or too long; a prompt without room.
    """
    unknown = set(examples) - {"train", "validation", "test"}
    if unknown:
        raise ValueError(f"Task '{task}' has splits {sorted(unknown)}; tuning reads train, validation and test.")
    if not len(examples.get("train", ())):
        raise ValueError(
            f"Task '{task}' has no training rows to tune on. Mend the data or set `suite` to one with a train split."
        )
    empty = TuningExamples((), ())
    return {
        split: _encode(f"{task}/{split}", backbone, examples.get(split, empty), settings)
        for split in ("train", "validation", "test")
    }


def transformers_tokenizer(backbone: FrozenBackbone) -> Any:
    """The backbone's private copy of its tokenizer, not to be changed."""
    return backbone.tokenizer.wrapped


def end_token(backbone: FrozenBackbone) -> int:
    """The id that ends an answer: the tokenizer's end token, or its pad token where it has none.

    Raises:
        ValueError: It has neither.
    """
    tokenizer = transformers_tokenizer(backbone)
    for token in (tokenizer.eos_token_id, tokenizer.pad_token_id):
        if token is not None:
            return token
    raise ValueError(
        f"The tokenizer of '{backbone.name}' has neither an end nor a pad token to end answers with. "
        "Set `backbone` to a model with one."
    )


def _encode(
    where: str, backbone: FrozenBackbone, examples: TuningExamples, settings: TuningSettings
) -> tuple[Example, ...]:
    answers = _answers(where, backbone, examples, settings)
    longest = min(settings.max_length or backbone.tokenizer.max_length, backbone.tokenizer.max_length)
    prompts = _prompts(where, backbone, examples.prompts, [longest + 1 - len(answer) for answer in answers])
    return tuple(Example(prompt, answer) for prompt, answer in zip(prompts, answers, strict=True))


def _answers(
    where: str, backbone: FrozenBackbone, examples: TuningExamples, settings: TuningSettings
) -> list[np.ndarray]:
    """Answers start with a space where the prompt ends in a letter, as in running text; a chat turn starts bare."""
    empty = sum(not target.strip() for target in examples.targets)
    if empty:
        raise ValueError(
            f"{empty} of {len(examples)} targets of task '{where}' are empty; tuning expects an answer for every "
            "prompt. Mend the data or leave the task out of the suite."
        )
    tokenizer, end = transformers_tokenizer(backbone), end_token(backbone)
    spaced = not backbone.tokenizer.chat_template and not tokenizer.tokenize("a")[0].startswith("▁")
    texts = [
        f" {target.lstrip()}" if spaced and not prompt[-1:].isspace() else target.lstrip()
        for prompt, target in zip(examples.prompts, examples.targets, strict=True)
    ]
    ids = tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []
    answers = [np.asarray([*tokens, end], dtype=np.int32) for tokens in ids]
    lengths = [len(answer) for answer in answers if len(answer) > settings.max_target_length]
    if lengths:
        raise ValueError(
            f"{len(lengths)} of {len(examples)} targets of task '{where}' are longer than "
            f"{settings.max_target_length} tokens; the longest has {max(lengths)}. Set `tuning.max_target_length`."
        )
    return answers


def _prompts(where: str, backbone: FrozenBackbone, prompts: Sequence[str], limits: Sequence[int]) -> list[np.ndarray]:
    """Prompts as the backbone tokenizes them, those longer than their limit cut at their beginning."""
    if prompts and min(limits) < 1:
        raise ValueError(
            f"An answer of task '{where}' leaves no room for its prompt within {backbone.tokenizer.max_length} tokens. "
            "Set `tuning.max_length` larger or `tuning.max_target_length` smaller."
        )
    ids = list(backbone.tokenize(prompts).ids)
    by_limit: dict[int, list[int]] = {}
    for row, limit in enumerate(limits):
        if len(ids[row]) > limit:
            by_limit.setdefault(limit, []).append(row)
    for limit, rows in by_limit.items():
        cut = backbone.tokenize([prompts[row] for row in rows], max_length=limit).ids
        for row, tokens in zip(rows, cut, strict=True):
            ids[row] = tokens
    return ids


_BATCHES_PER_BUCKET = 32


def epoch_batches(lengths: Sequence[int], batch_size: int, *, seed: int, epoch: int) -> list[list[int]]:
    """Rows of every step of one pass, each row once; rows of a step are about equally long.

    Rows are shuffled, sorted by length within buckets of 32 batches, cut into batches, and these are shuffled: the
    order depends on seed and epoch alone.

    Args:
        lengths: Tokens of each row.
        batch_size: Rows a step; the last bucket's last may have fewer.
        seed: 0 is a seed like any other.
        epoch: Which pass, from 0.
    """
    random = np.random.default_rng(derive_seed(seed, "tuning order", epoch))
    order, batches = random.permutation(len(lengths)).tolist(), []
    for start in range(0, len(order), batch_size * _BATCHES_PER_BUCKET):
        bucket = sorted(order[start : start + batch_size * _BATCHES_PER_BUCKET], key=lambda row: lengths[row])
        batches += [bucket[i : i + batch_size] for i in range(0, len(bucket), batch_size)]
    return [batches[i] for i in random.permutation(len(batches)).tolist()]


def micro_batches(examples: Sequence[Example], tokens: int) -> list[list[Example]]:
    """Part examples, longest first, into groups of at most so many tokens, pads included; a longer one goes alone."""
    groups: list[list[Example]] = []
    for example in sorted(examples, key=lambda example: -example.num_inputs):
        if groups and groups[-1][0].num_inputs * (len(groups[-1]) + 1) <= tokens:
            groups[-1].append(example)
        else:
            groups.append([example])
    return groups


class StepBatches:
    """One list of examples an optimizer step, all epochs in a row, from any step on.

    A resumable loader in Lightning's sense: its state is the number of steps made.

    Args:
        examples: Training examples.
        batch_size: Examples a step.
        total_steps: Steps of the whole tuning.
        seed: Decides the order.
        steps_done: Tells how many steps were made so far.
    """

    def __init__(
        self,
        examples: Sequence[Example],
        batch_size: int,
        *,
        total_steps: int,
        seed: int,
        steps_done: Callable[[], int] = lambda: 0,
    ) -> None:
        self.examples, self.batch_size = examples, batch_size
        self.total_steps, self.seed, self.steps_done = total_steps, seed, steps_done
        self._first = 0

    def __len__(self) -> int:
        return self.total_steps

    def __iter__(self) -> Iterator[list[Example]]:
        lengths = [example.num_inputs for example in self.examples]
        steps_per_epoch = -(-len(lengths) // self.batch_size)
        first, self._first = self._first, 0
        for epoch in range(first // steps_per_epoch, -(-self.total_steps // steps_per_epoch)):
            start = epoch * steps_per_epoch
            batches = epoch_batches(lengths, self.batch_size, seed=self.seed, epoch=epoch)
            for rows in batches[max(first - start, 0) : self.total_steps - start]:
                yield [self.examples[row] for row in rows]

    def state_dict(self) -> dict[str, int]:
        """The number of steps made."""
        return {"steps_done": self.steps_done()}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Go on after so many steps."""
        self._first = state_dict["steps_done"]


class TuningDataModule(LightningDataModule):
    """Serves training examples step by step; the whole tuning is one pass of Lightning's.

    Args:
        examples: Training examples.
        batch_size: Examples a step.
        total_steps: Steps of the whole tuning.
        seed: Decides the order; 0 is a seed like any other.
    """

    def __init__(self, examples: Sequence[Example], batch_size: int, *, total_steps: int, seed: int) -> None:
        super().__init__()
        self.examples, self.batch_size, self.total_steps, self.seed = examples, batch_size, total_steps, seed

    def train_dataloader(self) -> StepBatches:
        """Serve one list of examples a step."""
        return StepBatches(
            self.examples,
            self.batch_size,
            total_steps=self.total_steps,
            seed=self.seed,
            steps_done=lambda: 0 if self.trainer is None else self.trainer.global_step,
        )
