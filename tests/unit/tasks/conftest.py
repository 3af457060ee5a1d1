"""Fixtures for the tests of tasks: rows and folders to load; what `datasets` caches goes to the test's folder."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

Rows = Sequence[Mapping[str, Any]]
Write = Callable[..., Path]


@pytest.fixture
def offline_datasets(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "datasets_cache")
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.fixture
def write_task(tmp_path: Path) -> Write:
    """Writes `task/split.jsonl` files and returns the folder of the suite."""

    def write(task: str = "mood", **splits: Rows) -> Path:
        folder = tmp_path / "suite"
        for split, rows in splits.items():
            (folder / task).mkdir(parents=True, exist_ok=True)
            lines = "".join(json.dumps(dict(row)) + "\n" for row in rows)
            (folder / task / f"{split}.jsonl").write_text(lines, encoding="utf-8")
        return folder

    return write


@pytest.fixture
def rows() -> Callable[[str, int], list[dict[str, Any]]]:
    """`n` rows of two alternating classes; rows with different prefixes have different texts."""

    def make(prefix: str, n: int) -> list[dict[str, Any]]:
        words = ("sad", "glad")
        return [
            {
                "inputs": f"{prefix} {i} feels so.\nSad or glad?",
                "targets": words[i % 2],
                "text": f"{prefix} {i} feels so.",
                "label": i % 2,
            }
            for i in range(n)
        ]

    return make
