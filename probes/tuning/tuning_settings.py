"""How a causal language model is tuned: the fields of the config node `tuning`, checked as soon as they are set."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

METHODS = ("lora", "dora", "ia3", "ln", "full")
SCHEDULES = ("cosine", "linear", "constant")
PRECISIONS = ("auto", "float32", "bfloat16")
_PROMPT_METHODS = ("prefix", "prompt", "prefix_tuning", "prompt_tuning", "p_tuning")
_EVALUATION_ONLY = ("checkpoint_every_n_steps", "generate_rows", "max_new_tokens")


@dataclass(frozen=True, kw_only=True)
class TuningSettings:
    """Everything that decides how a model is tuned and scored, but for the data and the seed.

    Attributes:
        method: What is trained: low-rank adapters `lora` or `dora`, scales `ia3`, the norms `ln`, or all weights
            `full`. Prefix and prompt tuning are refused: they put positions before the text.
        target_modules: Linear modules that bear adapters, by the last parts of their names; `ln` and `full` read none.
        rank: Rank of an adapter's product (lora, dora).
        alpha: An adapter's product is scaled by alpha / rank (lora, dora).
        dropout: Share of an adapter's inputs silenced in training (lora, dora).
        learning_rate: Of AdamW, at the top of the schedule.
        schedule: How it falls after the warm-up: `cosine` or `linear` to 0, or `constant`.
        warmup_share: Share of all steps in which it rises from 0.
        max_epochs: Passes over the training rows; 0 leaves the model unchanged.
        max_steps: Optimizer steps at most; `None` for no limit, 0 leaves the model unchanged.
        batch_size: Sequences an optimizer step, whatever the memory.
        micro_batch_tokens: Most tokens of one forward pass, pads included; halved when memory runs out. A longer
            sequence goes alone.
        weight_decay: Of AdamW.
        gradient_clip_norm: Largest norm of the gradient of a step; `None` for no limit.
        precision: What matrices are multiplied in: `float32`, `bfloat16` (autocast), or `auto`: the backbone's dtype.
            Trained weights are float32 while training.
        max_length: Tokens of prompt and answer together, to which a prompt is cut at its beginning; `None` for what
            the backbone allows.
        max_target_length: Tokens of an answer at most, its end token included; longer ones are refused.
        validate_every_n_epochs: Passes between measurements of the validation loss.
        validate_every_n_steps: Instead, optimizer steps between them.
        patience: Measurements without a lower validation loss after which tuning stops and goes back to the lowest;
            `None` tunes to the end and keeps the last weights.
        generate_rows: Test rows answered greedily, before and after tuning; 0 for none.
        max_new_tokens: Tokens of such an answer at most.
        checkpoint_every_n_steps: Optimizer steps that a killed run loses at most; `None` keeps no checkpoints.

    Raises:
        ValueError: A field is out of its range.
    """

    method: Literal["lora", "dora", "ia3", "ln", "full"] = "lora"
    target_modules: tuple[str, ...] = ("q_proj", "v_proj")
    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.05
    learning_rate: float = 5e-5
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup_share: float = 0.03
    max_epochs: int = 3
    max_steps: int | None = None
    batch_size: int = 16
    micro_batch_tokens: int = 2048
    weight_decay: float = 0.0
    gradient_clip_norm: float | None = 1.0
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    max_length: int | None = None
    max_target_length: int = 256
    validate_every_n_epochs: int = 1
    validate_every_n_steps: int | None = None
    patience: int | None = None
    generate_rows: int = 64
    max_new_tokens: int = 32
    checkpoint_every_n_steps: int | None = 200

    def __post_init__(self) -> None:
        names = (self.target_modules,) if isinstance(self.target_modules, str) else tuple(self.target_modules)
        object.__setattr__(self, "target_modules", names)
        self._check_choices()
        self._check_whole_numbers()
        self._check_numbers()

    @property
    def trains_nothing(self) -> bool:
        """Whether no step is to be made."""
        return self.max_epochs == 0 or self.max_steps == 0

    def total_steps(self, rows: int) -> int:
        """Optimizer steps over this many training rows."""
        steps = self.max_epochs * -(-rows // self.batch_size)
        return steps if self.max_steps is None else min(steps, self.max_steps)

    def validation_interval(self, rows: int) -> int:
        """Optimizer steps between two measurements of the validation loss."""
        return self.validate_every_n_steps or self.validate_every_n_epochs * -(-rows // self.batch_size)

    def identity(self) -> dict[str, object]:
        """The fields that decide the tuned weights."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name not in _EVALUATION_ONLY}

    def _check_choices(self) -> None:
        if self.method in _PROMPT_METHODS:
            raise ValueError(
                f"Tuning by '{self.method}' puts positions before the text, which shifts masks and the last token that "
                f"probes read. Set `tuning.method` to one of {', '.join(METHODS)}."
            )
        for key, choices in (("method", METHODS), ("schedule", SCHEDULES), ("precision", PRECISIONS)):
            value = getattr(self, key)
            if value not in choices:
                raise ValueError(
                    f"There is no {key} '{value}'. There are {', '.join(choices)}. Set `tuning.{key}` to one of these."
                )
        if self.method in {"lora", "dora", "ia3"} and not self.target_modules:
            raise ValueError(f"`{self.method}` expects modules to adapt; got none. Set `tuning.target_modules`.")

    def _check_whole_numbers(self) -> None:
        least = {
            "rank": 1, "max_epochs": 0, "max_steps": 0, "batch_size": 1, "micro_batch_tokens": 1, "max_length": 3,
            "max_target_length": 2, "validate_every_n_epochs": 1, "validate_every_n_steps": 1, "patience": 1,
            "generate_rows": 0, "max_new_tokens": 1, "checkpoint_every_n_steps": 1,
        }  # fmt: skip
        optional = {"max_steps", "max_length", "validate_every_n_steps", "patience", "checkpoint_every_n_steps"}
        for key, low in least.items():
            value = getattr(self, key)
            if value is None and key in optional:
                continue
            if not isinstance(value, int) or isinstance(value, bool) or value < low:
                raise ValueError(f"`tuning.{key}` expects a whole number of at least {low}; got {value!r}.")

    def _check_numbers(self) -> None:
        for key in ("alpha", "learning_rate", "gradient_clip_norm"):
            value = getattr(self, key)
            if not (key == "gradient_clip_norm" and value is None) and not 0 < value < float("inf"):
                raise ValueError(f"`tuning.{key}` expects a number above 0; got {value!r}.")
        for key in ("dropout", "warmup_share"):
            if not 0 <= getattr(self, key) < 1:
                raise ValueError(f"`tuning.{key}` expects a share in [0, 1); got {getattr(self, key)!r}.")
        if not 0 <= self.weight_decay < float("inf"):
            raise ValueError(f"`tuning.weight_decay` expects a number of at least 0; got {self.weight_decay!r}.")
