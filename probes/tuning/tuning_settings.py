"""How a causal language model is tuned: the fields of the config node `tuning`, validated on construction."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

from probes.kept_files import Verify, check_cache_settings

METHODS = ("lora", "dora", "ia3", "ln", "full")
SCHEDULES = ("cosine", "linear", "constant")
PRECISIONS = ("auto", "float32", "bfloat16")
_PROMPT_METHODS = ("prefix", "prompt", "prefix_tuning", "prompt_tuning", "p_tuning")
_NOT_OF_THE_MODEL = (
    "checkpoint_every_n_steps", "generate_rows", "max_new_tokens", "shard_weights", "verify", "lock_timeout"
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class TuningSettings:
    """Everything that decides how a model is tuned and scored, except the data and the seed.

    Attributes:
        method: Which weights are trained: low-rank adapters (`lora`, `dora`), scales (`ia3`), the norms (`ln`) or all
            weights (`full`). Prefix and prompt tuning are refused, because they add positions before the text.
        target_modules: Linear modules with adapters, by the last components of their names; `ln` and `full` ignore it.
        layers_to_transform: Numbers of the blocks that get adapters, from 0 (lora, dora); `None` for all blocks. Block
            k reads layer k, so tuning changes no layer up to the first number.
        rank: Rank of an adapter's product (lora, dora).
        alpha: An adapter's product is scaled by alpha / rank (lora, dora).
        dropout: Probability that an input of an adapter is set to 0 in training (lora, dora).
        learning_rate: Learning rate of AdamW at the end of the warm-up.
        schedule: What follows the warm-up: `cosine` or `linear` decay to 0, or `constant`.
        warmup_share: Share of all steps, rounded up to whole steps, in which the learning rate rises linearly; the
            first step already has a positive rate.
        max_epochs: Passes over the training rows; 0 leaves the model unchanged.
        max_steps: Optimizer steps at most; `None` for no limit, 0 leaves the model unchanged.
        batch_size: Sequences per optimizer step, on any amount of memory and in all processes together.
        micro_batch_tokens: Tokens of one forward pass at most, pads included; halved when memory runs out. A longer
            sequence is a micro-batch by itself.
        weight_decay: Weight decay of AdamW.
        gradient_clip_norm: Largest norm of a step's gradient; `None` for no limit.
        precision: Precision of matrix products: `float32`, `bfloat16` (autocast), or `auto`, the backbone's dtype.
            Trained weights are float32 while training.
        max_length: Tokens of prompt and answer together, to which a prompt is cut at its beginning; `None` for the
            backbone's limit.
        max_target_length: Tokens of an answer at most, including the end token; longer answers are refused.
        validate_every_n_epochs: Epochs between measurements of the validation loss.
        validate_every_n_steps: Optimizer steps between measurements; `None` counts epochs instead.
        patience: Measurements without a new lowest validation loss after which tuning stops and restores the weights
            with the lowest; `None` tunes to the end and keeps the last weights.
        generate_rows: Test rows answered greedily, before and after tuning; 0 for none.
        max_new_tokens: Tokens of such an answer at most.
        checkpoint_every_n_steps: Optimizer steps that a killed run loses at most; `None` saves no checkpoints.
        shard_weights: Whether the frozen weights of the blocks are divided among the processes that tune together
            (FSDP2), for a model that does not fit one GPU; not with `full`.
        verify: Whether every file of a kept model is compared with its digest before it is used (`full`), or of files
            above a megabyte only their size (`quick`).
        lock_timeout: Seconds to wait for another run that tunes the same model and saves no checkpoint; `None` waits
            for ever.

    Raises:
        ValueError: A field is out of its range.
    """

    method: Literal["lora", "dora", "ia3", "ln", "full"] = "lora"
    target_modules: tuple[str, ...] = ("q_proj", "v_proj")
    layers_to_transform: tuple[int, ...] | None = None
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
    shard_weights: bool = False
    verify: Verify = "full"
    lock_timeout: float | None = 3600.0

    def __post_init__(self) -> None:
        names = (self.target_modules,) if isinstance(self.target_modules, str) else tuple(self.target_modules)
        object.__setattr__(self, "target_modules", names)
        if self.layers_to_transform is not None:
            object.__setattr__(self, "layers_to_transform", tuple(self.layers_to_transform))
        self._check_choices()
        self._check_blocks()
        self._check_whole_numbers()
        self._check_numbers()
        check_cache_settings(self.verify, self.lock_timeout)

    @property
    def trains_nothing(self) -> bool:
        """Whether the settings allow no optimizer step."""
        return self.max_epochs == 0 or self.max_steps == 0

    def total_steps(self, rows: int) -> int:
        """Optimizer steps of a tuning on this many training rows."""
        steps = self.max_epochs * -(-rows // self.batch_size)
        return steps if self.max_steps is None else min(steps, self.max_steps)

    def validation_interval(self, rows: int) -> int:
        """Optimizer steps between two measurements of the validation loss."""
        return self.validate_every_n_steps or self.validate_every_n_epochs * -(-rows // self.batch_size)

    def identity(self) -> dict[str, object]:
        """The fields that decide the tuned weights, and which losses are recorded beside them."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name not in _NOT_OF_THE_MODEL}

    def _check_choices(self) -> None:
        if self.method in _PROMPT_METHODS:
            raise ValueError(
                f"Tuning by '{self.method}' adds positions before the text, which shifts masks and the last token that "
                f"probes read. Set `tuning.method` to one of {', '.join(METHODS)}."
            )
        for key, choices in (("method", METHODS), ("schedule", SCHEDULES), ("precision", PRECISIONS)):
            value = getattr(self, key)
            if value not in choices:
                raise ValueError(
                    f"Unknown {key} '{value}'. There are {', '.join(choices)}. Set `tuning.{key}` to one of these."
                )
        if self.shard_weights and self.method == "full":
            raise ValueError(
                "`tuning.shard_weights=true` divides frozen weights, and `tuning.method=full` freezes none. Set "
                "`tuning.method=lora`, or `tuning.shard_weights=false`."
            )
        if self.method in {"lora", "dora", "ia3"} and not self.target_modules:
            raise ValueError(f"Method '{self.method}' expects target modules; got none. Set `tuning.target_modules`.")

    def _check_blocks(self) -> None:
        blocks = self.layers_to_transform
        if blocks is None:
            return
        if self.method not in {"lora", "dora"}:
            raise ValueError(
                f"Only adapters of lora and dora can be limited to some blocks; the method is '{self.method}'. Set "
                "`tuning.method` to lora or dora, or `tuning.layers_to_transform` to null."
            )
        whole = all(isinstance(block, int) and not isinstance(block, bool) and block >= 0 for block in blocks)
        if not blocks or not whole or len(set(blocks)) < len(blocks):
            raise ValueError(
                "`tuning.layers_to_transform` must be null or one or more different numbers of blocks, from 0; got "
                f"{list(blocks)}."
            )

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
                raise ValueError(f"`tuning.{key}` must be a whole number of at least {low}; got {value!r}.")

    def _check_numbers(self) -> None:
        for key in ("alpha", "learning_rate", "gradient_clip_norm"):
            value = getattr(self, key)
            if not (key == "gradient_clip_norm" and value is None) and not 0 < value < float("inf"):
                raise ValueError(f"`tuning.{key}` must be a number above 0; got {value!r}.")
        for key in ("dropout", "warmup_share"):
            if not 0 <= getattr(self, key) < 1:
                raise ValueError(f"`tuning.{key}` must be in [0, 1); got {getattr(self, key)!r}.")
        if not 0 <= self.weight_decay < float("inf"):
            raise ValueError(f"`tuning.weight_decay` must be at least 0; got {self.weight_decay!r}.")
