"""Where tuned models and their scores are kept: folders and files named by everything that decided their content."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import lightning
import peft
import torch
import transformers

from probes.answers import Example
from probes.files import digest_of_json, file_name, new_folder
from probes.kept_files import (
    MANIFEST,
    Verify,
    folder_fault,
    read_sealed_json,
    seal_folder,
    set_aside,
    write_sealed_json,
)
from probes.tuning.answer_scores import AnswerSample, AnswerScores
from probes.tuning.examples import Encoded
from probes.tuning.tuning_settings import TuningSettings

_FORMAT = 2
"""Part of every key; raise it when the same data and settings give other weights or scores."""


@dataclass(frozen=True)
class ModelFolder:
    """The folder of a finished tuned model, and the files of the same name that lie beside it while it is tuned.

    Attributes:
        path: The finished model; the folder exists only if it is complete.
        key: Everything that decided the weights; the folder's files are bound to it.
    """

    path: Path
    key: str

    @classmethod
    def of(cls, cache_dir: Path, name: str, key: str) -> ModelFolder:
        """The folder `adapters/<name>-<key>` of a model, by the data it is tuned on and its key."""
        return cls(cache_dir / "adapters" / f"{file_name(name)}-{key}", key)

    @property
    def lock(self) -> Path:
        """A lock file, on which a second process waits until the first has finished the model."""
        return self.path.with_name(f"{self.path.name}.lock")

    @property
    def checkpoint(self) -> Path:
        """The last saved state of an unfinished tuning, if there is one."""
        return self.path.with_name(f"{self.path.name}.ckpt")

    def progress(self) -> float | None:
        """When the unfinished model was last saved; `None` if it was not."""
        return self.checkpoint.stat().st_mtime if self.checkpoint.exists() else None

    def record(self, verify: Verify = "full") -> dict[str, Any] | None:
        """The content of a finished model's `tuning.json`; `None` if there is no finished model.

        A folder that is damaged or belongs to another key is set aside with a warning.
        """
        if not self.path.exists():
            return None
        fault = folder_fault(self.path, key=self.key, verify=verify)
        if fault is not None:
            set_aside(self.path, fault, remedy="The model is tuned again.")
            return None
        with suppress(OSError):  # its time tells `probes cache prune` when the model was last used
            os.utime(self.path / MANIFEST)
        return json.loads((self.path / "tuning.json").read_text(encoding="utf-8"))

    @contextmanager
    def finish(self) -> Iterator[Path]:
        """Save the model to the yielded folder; it becomes `path`, and the checkpoint goes, when the block ends."""
        with new_folder(self.path) as folder:
            yield folder
            seal_folder(folder, key=self.key, apart_from="scores-*.json")
        self.checkpoint.unlink(missing_ok=True)


def weights_key(fingerprint: str, data: Encoded, settings: TuningSettings, seed: int) -> str:
    """24 hexadecimal digits over everything that decides the tuned weights.

    Validation rows are part of it only if they can stop the tuning.
    """
    splits = ("train", "validation") if settings.patience is not None else ("train",)
    return digest_of_json(
        {
            "format": _FORMAT,
            "fingerprint": fingerprint,
            "data": {split: examples_digest(data[split]) for split in splits},
            "settings": settings.identity(),
            "seed": seed,
            "versions": [m.__version__ for m in (torch, transformers, peft, lightning)],
        }
    )


def scores_key(data: Encoded, sample: AnswerSample, *, precision: str) -> str:
    """24 hexadecimal digits over everything that decides a model's scores, except the model."""
    return digest_of_json(
        {
            "format": _FORMAT,
            "splits": [examples_digest(data[split]) for split in ("validation", "test")],
            "sample": [sample.rows, sample.max_new_tokens, sample.end_id, sample.longest],
            "precision": precision,
            "torch": torch.__version__,
        }
    )


def examples_digest(examples: Sequence[Example]) -> str:
    """32 hexadecimal digits over the token ids of prompts and answers, in order."""
    digest = hashlib.blake2b(digest_size=16)
    for example in examples:
        for ids in example:
            digest.update(len(ids).to_bytes(4, "little"))
            digest.update(ids.astype("<i4").tobytes())
    return digest.hexdigest()


def read_scores(path: Path, *, key: str) -> AnswerScores | None:
    """The scores in a file; `None` if there is no such file, or if it is damaged or belongs to another key."""
    values = read_sealed_json(path, key=key, remedy="The scores are computed again.")
    if values is None:
        return None
    values |= {name: math.nan for name, value in values.items() if value is None}
    return AnswerScores(**values)


def write_scores(path: Path, scores: AnswerScores, *, key: str) -> None:
    """Write scores to a JSON file, bound to a key that names the model and the scored rows."""
    values = {name: None if value != value else value for name, value in asdict(scores).items()}  # JSON has no NaN
    write_sealed_json(path, values, key=key)
