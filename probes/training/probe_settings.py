"""How probes are trained: the fields of the config node `probe`, checked as soon as they are set."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from probes.architectures import LinearProbe, ProbeArchitecture

FITS = ("auto", "exact", "minibatch", "ridge", "lda")
CLASS_WEIGHTS = (None, "balanced")
SCHEDULES = ("constant", "linear")
FEW_TRAINING_ROWS = 500
"""With fewer training rows than this, `training_sets="auto"` refits probes that are solved exactly."""
AUTO_TRAINING_SETS = 20
"""Halves of the training rows that `training_sets="auto"` refits on."""
_LEAST_WHOLE_NUMBERS = {
    "controls": 0,
    "folds": 2,
    "min_validation_rows": 0,
    "batch_size": 1,
    "max_epochs": 1,
    "patience": 1,
    "max_iterations": 1,
    "bootstrap_samples": 0,
    "permutations": 0,
    "max_bank_bytes": 1,
}
"""The fields that are whole numbers, and the least value of each."""


@dataclass(frozen=True, kw_only=True)
class ProbeSettings:
    """Everything that decides how the probes of a task are trained and scored, except for the data and the seed.

    Attributes:
        name: Name of this probe in the results.
        architecture: Called with `(in_features, num_classes)`, constructs one probe; a class or a partial of one.
        fit: `exact` (linear probes only: the optimum, with a certificate), `minibatch` (AdamW with early stopping), or
            `auto`: exact where possible. `ridge` and `lda` (linear probes only) follow in closed form from second
            moments, see `probes.training.closed_form`.
        penalties: λ of the term λ/2 · ‖weights‖² added to the mean loss; one is chosen for each layer on validation.
        largest_token: For probes that read all tokens: vectors whose root mean square is more than so many times the
            median over training tokens are shortened to that. The first token of many decoders is hundreds of times
            larger than all others, and would decide alone how features are standardised. `None` for no limit; probes of
            one vector a row have none.
        class_weights: `balanced` gives every class the same total weight in the loss; `None` every row.
        controls: Probes of shuffled labels beside each probe.
        folds: Folds of the cross-validation that replaces a small validation split.
        min_validation_rows: With fewer validation rows than this, cross-validate.
        learning_rate: Learning rate of AdamW (minibatch).
        schedule: `constant`, or `linear`: the learning rate falls to 0 over the steps of `max_epochs` (minibatch).
        batch_size: Rows per step (minibatch).
        max_epochs: Most passes over the training rows (minibatch).
        patience: Epochs without a lower validation loss after which a probe stops (minibatch).
        gradient_clip_norm: Largest norm of one probe's gradient; `None` for no limit (minibatch).
        max_iterations: Most quasi-Newton iterations for each penalty (exact).
        tolerance: Certified gap to the optimum, relative to the objective (exact).
        bootstrap_samples: Resamples of the rows behind each 95 % interval; 0 for no intervals.
        training_sets: Halves of the training rows on which each probe is refitted, so that intervals of test scores
            are over training sets, too; 0 holds the trained probe fixed. `auto`: 20 for exact fits with fewer than 500
            training rows, else 0.
        permutations: Permutations of the test labels behind each null and p; 0 for none.
        max_bank_bytes: Memory in bytes that probes in training may take; more layers than fit are trained in chunks.
        max_train_bytes: Memory in bytes that a task's training rows may take; more are streamed from the store, with
            `ridge` and `lda` exactly, else by minibatches. `None`: no limit.

    Raises:
        ValueError: A field is out of its range.
        TypeError: The architecture cannot be called.
    """

    name: str = "linear"
    architecture: ProbeArchitecture = LinearProbe
    fit: Literal["auto", "exact", "minibatch", "ridge", "lda"] = "auto"
    penalties: tuple[float, ...] = (0.001, 0.01, 0.1, 1.0, 10.0)
    largest_token: float | None = 4.0
    class_weights: Literal["balanced"] | None = None
    controls: int = 1
    folds: int = 5
    min_validation_rows: int = 200
    learning_rate: float = 0.001
    schedule: Literal["constant", "linear"] = "constant"
    batch_size: int = 128
    max_epochs: int = 100
    patience: int = 5
    gradient_clip_norm: float | None = 1.0
    max_iterations: int = 500
    tolerance: float = 2e-4
    bootstrap_samples: int = 1000
    training_sets: int | Literal["auto"] = "auto"
    permutations: int = 200
    max_bank_bytes: int = 2**31
    max_train_bytes: int | None = 2**34

    def __post_init__(self) -> None:
        penalties = (self.penalties,) if isinstance(self.penalties, int | float) else tuple(self.penalties)
        object.__setattr__(self, "penalties", tuple(float(p) for p in penalties))
        if not callable(self.architecture):
            raise TypeError(
                f"A probe architecture must be a class or a partial of one; got {type(self.architecture).__name__}. "
                "Set `probe.architecture._target_` to a class and `probe.architecture._partial_` to true."
            )
        self._check_choices()
        self._check_ranges()
        self._check_penalties()

    def sets_to_refit(self, training_rows: int, *, exact: bool) -> int:
        """How many halves of the training rows to refit on, given their number and how probes are fitted."""
        if self.bootstrap_samples == 0:
            return 0
        if self.training_sets == "auto":
            return AUTO_TRAINING_SETS if exact and training_rows < FEW_TRAINING_ROWS else 0
        return self.training_sets

    def for_streamed_rows(self, task: str, *, validation_rows: int) -> ProbeSettings:
        """The settings for training rows that stay on disk: `auto` means minibatches.

        Raises:
            ValueError: The exact solver, which holds all rows, is asked for; or there are too few validation rows.
        """
        if self.fit == "exact":
            raise ValueError(
                f"`probe.fit=exact` holds all training rows, and those of task '{task}' are streamed. Set `probe.fit` "
                "to ridge or lda, which are exact from sums, or to auto, or raise `probe.max_train_bytes`."
            )
        if validation_rows < max(1, self.min_validation_rows):
            raise ValueError(
                f"Task '{task}' has {validation_rows} validation rows. Streamed training rows are not cross-validated: "
                f"give it at least {max(1, self.min_validation_rows)}, or lower `probe.min_validation_rows`."
            )
        return replace(self, fit="minibatch" if self.fit == "auto" else self.fit)

    def _check_choices(self) -> None:
        for key, choices in (("fit", FITS), ("class_weights", CLASS_WEIGHTS), ("schedule", SCHEDULES)):
            value = getattr(self, key)
            if value not in choices:
                listed = ", ".join("null" if choice is None else choice for choice in choices)
                raise ValueError(f"There is no {key} '{value}'. There are {listed}. Set `probe.{key}` to one of these.")

    def _check_ranges(self) -> None:
        for key, least in _LEAST_WHOLE_NUMBERS.items():
            value = getattr(self, key)
            if not isinstance(value, int) or value < least:
                raise ValueError(f"`probe.{key}` must be a whole number of at least {least}; got {value!r}.")
        sets = self.training_sets
        if sets != "auto" and (not isinstance(sets, int) or sets < 0 or sets == 1):
            raise ValueError(f"`probe.training_sets` must be auto, 0, or a whole number of at least 2; got {sets!r}.")
        limit = self.max_train_bytes
        if limit is not None and (not isinstance(limit, int) or limit < 0):
            raise ValueError(f"`probe.max_train_bytes` must be a whole number of bytes or null; got {limit!r}.")
        for key in ("learning_rate", "tolerance", "gradient_clip_norm", "largest_token"):
            value = getattr(self, key)
            if not (key in ("gradient_clip_norm", "largest_token") and value is None) and not value > 0:
                raise ValueError(f"`probe.{key}` must be a number above 0; got {value!r}.")

    def _check_penalties(self) -> None:
        finite = all(0 <= penalty < float("inf") for penalty in self.penalties)
        if not self.penalties or not finite or len(set(self.penalties)) < len(self.penalties):
            raise ValueError(
                f"`probe.penalties` must be one or more distinct numbers of at least 0; got {list(self.penalties)}."
            )
