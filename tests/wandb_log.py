"""Reads an offline W&B run back from its record log, without a server; W&B itself can only upload such a log."""

from __future__ import annotations

import json
import struct
import time
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypedDict

from wandb.proto import wandb_internal_pb2

_BLOCK = 32768
_FILE_HEADER = struct.pack("<4sHB", b":W&B", 0xBEE1, 0)
_RECORD_HEADER = struct.Struct("<IHB")  # checksum, length, kind
_FULL, _FIRST, _LAST = 1, 2, 4  # kinds of pieces; 3 is one in the middle


class OfflineRun(TypedDict):
    """What an offline run has written: `images` are files, `tables` their parsed JSON (`columns` and `data`)."""

    run_id: str
    project: str
    entity: str
    group: str
    name: str
    job_type: str
    notes: str
    tags: tuple[str, ...]
    config: dict[str, Any]
    summary: dict[str, Any]
    tables: dict[str, dict[str, Any]]
    images: dict[str, Path]
    artifacts: dict[str, list[str]]
    exit_code: int | None


def offline_run_dirs(output_dir: Path) -> list[Path]:
    """Folders of the offline runs below an output folder, in the order in which the runs ended."""
    logs = output_dir.rglob("offline-run-*/run-*.wandb")
    return [log.parent for log in sorted(logs, key=lambda log: log.stat().st_mtime_ns)]


def read_offline_run(run_dir: Path, *, seconds: float = 20.0) -> OfflineRun:
    """Read one run as far as it has been written.

    Args:
        run_dir: The folder `offline-run-<time>-<id>`, as `offline_run_dirs` finds it.
        seconds: How long to wait for the last record of the run; `Run.finish` returns a little before it is written.

    Raises:
        ValueError: The log is damaged.
    """
    records = _records_to_the_last(next(run_dir.glob("run-*.wandb")), seconds)
    runs = [record.run for record in records if record.WhichOneof("record_type") == "run"]
    if not runs:
        raise ValueError(f"{run_dir} has no run after {seconds} s; it has {len(records)} records.")
    run = runs[-1]
    logged = _merged(record.history.item for record in records)
    return OfflineRun(
        run_id=run.run_id,
        project=run.project,
        entity=run.entity,
        group=run.run_group,
        name=run.display_name,
        job_type=run.job_type,
        notes=run.notes,
        tags=tuple(run.tags),
        config=_merged(update for record in records for update in (record.run.config.update, record.config.update)),
        summary={**logged, **_merged(record.summary.update for record in records)},
        tables={key: json.loads(path.read_text()) for key, path in _media(run_dir, logged, "table-file").items()},
        images=_media(run_dir, logged, "image-file"),
        artifacts={r.artifact.name: _contents(r) for r in records if r.WhichOneof("record_type") == "artifact"},
        exit_code=next((r.exit.exit_code for r in records if r.WhichOneof("record_type") == "exit"), None),
    )


def _records_to_the_last(log: Path, seconds: float) -> list[Any]:
    end = time.monotonic() + seconds
    while True:
        records = [_parsed(data) for data in _records(log.read_bytes())]
        if any(record.WhichOneof("record_type") == "exit" for record in records) or time.monotonic() > end:
            return records
        time.sleep(0.05)


def _parsed(data: bytes) -> Any:
    record = wandb_internal_pb2.Record()  # pyright: ignore[reportAttributeAccessIssue]  # made at import
    record.ParseFromString(data)
    return record


def _contents(record: Any) -> list[str]:
    return [entry.path for entry in record.artifact.manifest.contents]


def _media(run_dir: Path, logged: dict[str, Any], kind: str) -> dict[str, Path]:
    values = {key: value for key, value in logged.items() if isinstance(value, dict) and value.get("_type") == kind}
    return {key: run_dir / "files" / value["path"] for key, value in values.items()}


def _merged(updates: Iterable[Any]) -> dict[str, Any]:
    return {key: value for items in updates for key, value in _tree(items).items()}


def _tree(items: Any) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for item in items:
        *parents, leaf = item.nested_key or [item.key]  # a nested value arrives as one item per leaf
        branch = tree
        for parent in parents:
            branch = branch.setdefault(parent, {})
        branch[leaf] = json.loads(item.value_json)
    return tree


def _records(log: bytes) -> Iterator[bytes]:
    """Records in LevelDB's log format: blocks of 32 KiB, a long record split into first, middle and last pieces.

    An incomplete piece at the end of the log is still being written; the records end before it.
    """
    if not log:
        return
    if not log.startswith(_FILE_HEADER):
        raise ValueError(f"A W&B record log must start with {_FILE_HEADER!r}; got {log[:7]!r}.")
    position, pieces = len(_FILE_HEADER), b""
    while position + _RECORD_HEADER.size <= len(log):
        if _BLOCK - position % _BLOCK < _RECORD_HEADER.size:  # no space for a header: zeros up to the next block
            position += _BLOCK - position % _BLOCK
            continue
        checksum, length, kind = _RECORD_HEADER.unpack_from(log, position)
        position += _RECORD_HEADER.size
        data = log[position : position + length]
        if len(data) < length:
            return
        position += length
        if zlib.crc32(data, zlib.crc32(bytes([kind]))) != checksum:
            raise ValueError(f"Damaged W&B record log: wrong checksum before byte {position}.")
        pieces = data if kind in {_FULL, _FIRST} else pieces + data
        if kind in {_FULL, _LAST}:
            yield pieces
