"""Where tuned models and scores are kept: folders and files named by all that decided their content."""

from __future__ import annotations

import hashlib
import json
import math
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import lightning
import peft
import torch
import transformers

from probes.files import digest_of_json, write_json
from probes.tuning.answer_scores import AnswerSample, AnswerScores
from probes.tuning.examples import Encoded, Example
from probes.tuning.tuning_settings import TuningSettings

_FORMAT = 1


def weights_key(fingerprint: str, data: Encoded, settings: TuningSettings, seed: int) -> str:
    """24 hexadecimal digits over all that decides the tuned weights; validation rows do if they stop the tuning."""
    deciding = ("train", "validation") if settings.patience is not None else ("train",)
    return digest_of_json(
        {
            "format": _FORMAT,
            "fingerprint": fingerprint,
            "data": {split: examples_digest(data[split]) for split in deciding},
            "settings": settings.identity(),
            "seed": seed,
            "versions": [m.__version__ for m in (torch, transformers, peft, lightning)],
        }
    )


def scores_key(data: Encoded, sample: AnswerSample, *, precision: str) -> str:
    """24 hexadecimal digits over all that decides a model's scores, but for the model."""
    asked = [sample.rows, sample.max_new_tokens, sample.end_id, sample.longest]
    splits = [examples_digest(data[split]) for split in ("validation", "test")]
    return digest_of_json(
        {"format": _FORMAT, "splits": splits, "sample": asked, "precision": precision, "torch": torch.__version__}
    )


def examples_digest(examples: Sequence[Example]) -> str:
    """A hash of the token ids of prompts and answers, in order."""
    content = hashlib.blake2b(digest_size=16)
    for example in examples:
        for ids in example:
            content.update(len(ids).to_bytes(4, "little"))
            content.update(ids.astype("<i4").tobytes())
    return content.hexdigest()


@dataclass(frozen=True)
class TuningPlace:
    """The folder of one tuned model.

    Attributes:
        root: Folder of all tuned models.
        title: `<name>-<key>`.
    """

    root: Path
    title: str

    @classmethod
    def of(cls, cache_dir: Path, name: str, key: str) -> TuningPlace:
        """The place of a model by what it was tuned on and its key."""
        slug = re.sub(r"[^A-Za-z0-9_.]+", "_", name).strip("._")[:80] or "model"
        return cls(Path(cache_dir) / "adapters", f"{slug}-{key}")

    @property
    def folder(self) -> Path:
        """The finished model."""
        return self.root / self.title

    @property
    def partial(self) -> Path:
        """What is left of an unfinished tuning."""
        return self.root / f"{self.title}.partial"

    @property
    def lock(self) -> Path:
        """A second process waits here, then finds the finished model."""
        return self.root / f"{self.title}.lock"

    @property
    def checkpoint(self) -> Path:
        """From where an unfinished tuning goes on, if it came that far."""
        return self.partial / "last.ckpt"

    def record(self) -> dict[str, Any] | None:
        """What `tuning.json` says of a finished model; `None` if there is none."""
        path = self.folder / "tuning.json"
        return json.loads(path.read_text()) if path.exists() else None

    def finish(self, record: Mapping[str, Any]) -> None:
        """Turn the unfinished folder into the finished one, all at once."""
        write_json(self.partial / "tuning.json", record)
        self.checkpoint.unlink(missing_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)
        self.partial.rename(self.folder)


def read_scores(path: Path) -> AnswerScores | None:
    """Scores kept in a file; `None` if there are none."""
    if not path.exists():
        return None
    values: dict[str, Any] = json.loads(path.read_text())
    values |= {key: math.nan for key, value in values.items() if value is None}
    return AnswerScores(**values)


def write_scores(path: Path, scores: AnswerScores) -> None:
    """Keep scores in a file."""
    write_json(path, asdict(scores))
