"""`probes cache ls|verify|prune`: what the cache holds, whether it is whole, and what may go.

The cache is `~/.cache/probes`, `$PROBES_CACHE_DIR` or `--cache-dir`. Its entries are stores of activations, tuned and
merged models, converted weights, and the remains of damaged files and killed runs.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from probes.activations import is_url
from probes.activations.claims import Claims
from probes.activations.shards import DamagedShardError, check_values, read_header
from probes.kept_files import MANIFEST, folder_fault, read_key, resume_point_fault, sealed_fault

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_REMAINS = (
    "activations/*/*.corrupt*", "interventions/*.corrupt*", "rates/*.corrupt*", "adapters/*.ckpt",
    "adapters/*.corrupt*", "adapters/*/*.json.corrupt*",
)  # fmt: skip
_DAYS = {"h": 1 / 24, "d": 1, "w": 7}


@dataclass(frozen=True)
class Entry:
    """One thing in the cache that is kept or deleted as a whole.

    Attributes:
        kind: `activations`, `model`, `converted`, `record` (scores, fingerprints and rates), `effects` (of
            interventions) or `remains`.
        path: Its folder or file.
        lock: The lock that a run holds while it writes the entry; `None` if there is none.
        description: What it holds.
        size: Bytes.
        last_used: Seconds since the epoch: when it was last written, or opened by a run that may write.
    """

    kind: str
    path: Path
    lock: Path | None
    description: str
    size: int
    last_used: float

    def faults(self) -> Iterator[tuple[Path, str]]:
        """Every damaged file of the entry, with what is wrong with it."""
        if self.kind == "activations":
            yield from _faults_of_store(self.path)
        elif self.kind in {"model", "converted"}:
            key = read_key(self.path / MANIFEST) or "unknown"
            fault = folder_fault(self.path, key=key)
            if fault is not None:
                yield self.path, fault
            yield from _faults_of_records(self.path.glob("scores-*.json"))
        elif self.kind == "record":
            yield from _faults_of_records([self.path])
        elif self.kind == "effects" and (fault := resume_point_fault(self.path)) is not None:
            yield self.path, fault

    def delete(self) -> bool:
        """Delete the entry; False if a run is writing it."""
        if self.lock is not None and self.lock.exists():
            try:
                with FileLock(self.lock, blocking=False):
                    if self.kind == "activations" and Claims(self.lock).of_others():
                        return False
                    self._delete()
            except Timeout:
                return False
        else:
            self._delete()
        return True

    def _delete(self) -> None:
        shutil.rmtree(self.path) if self.path.is_dir() else self.path.unlink(missing_ok=True)


def entries(cache: Path) -> list[Entry]:
    """Everything in a cache, the least recently used first."""
    found = [
        *(_store(folder) for folder in sorted(cache.glob("activations/*")) if folder.is_dir()),
        *(_folder("model", folder) for folder in sorted(cache.glob("adapters/*-*")) if folder.is_dir()),
        *(_folder("converted", folder) for folder in sorted(cache.glob("converted/*")) if folder.is_dir()),
        *(_file("record", file) for file in sorted(cache.glob("adapters/*/*.json")) if _is_record(file)),
        *(_file("effects", file) for file in sorted(cache.glob("interventions/*.arrays"))),
        *(_file("record", file) for file in sorted(cache.glob("rates/*.json"))),
        *(_file("remains", file) for pattern in _REMAINS for file in sorted(cache.glob(pattern)) if file.is_file()),
    ]
    return sorted(found, key=lambda entry: (entry.last_used, str(entry.path)))


def to_prune(found: Sequence[Entry], *, older_than: float | None, max_size: int | None, now: float) -> list[Entry]:
    """The entries to delete: remains, those not used for some days, then the least recently used beyond a size.

    Args:
        found: Entries, the least recently used first.
        older_than: Days without use after which an entry goes; `None` for no limit.
        max_size: Bytes that the rest may have together; `None` for no limit.
        now: Seconds since the epoch.
    """
    unused = 86400 * older_than if older_than is not None else float("inf")
    chosen = [entry for entry in found if _is_damaged(entry) or now - entry.last_used > unused]
    rest = [entry for entry in found if entry not in chosen]
    size = sum(entry.size for entry in rest)
    for entry in rest:
        if max_size is None or size <= max_size:
            break
        chosen.append(entry)
        size -= entry.size
    return chosen


def main(arguments: Sequence[str]) -> None:
    """Run the command; exits with 1 if `verify` finds a damaged file."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if is_url(options.cache_dir):
        parser.error(
            f"'{options.cache_dir}' is an object store, and this command looks after local folders: pass "
            "`--cache-dir` with the folder of `paths.local_cache`"
        )
    cache = Path(options.cache_dir).expanduser()
    found = entries(cache)
    if options.action == "ls":
        _print_table(found, cache)
    elif options.action == "verify":
        faults = [(path, fault) for entry in found for path, fault in entry.faults()]
        for path, fault in faults:
            _say(f"'{path}' {fault}.")
        _say(f"{len(found)} entries, {_size(sum(entry.size for entry in found))}: {len(faults)} faults.")
        sys.exit(1 if faults else 0)
    else:
        chosen = to_prune(found, older_than=options.older_than, max_size=options.max_size, now=time.time())
        _prune(chosen, cache, delete=options.yes)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="probes cache", description="What the cache holds, and what may go.")
    parser.add_argument("--cache-dir", default=os.environ.get("PROBES_CACHE_DIR", "~/.cache/probes"))
    actions = parser.add_subparsers(dest="action", required=True)
    actions.add_parser("ls", help="list all entries, the least recently used first")
    actions.add_parser("verify", help="compare every file with its digest")
    prune = actions.add_parser("prune", help="show what would be deleted; with --yes, delete it")
    prune.add_argument("--older-than", type=_parse_age, metavar="30d", help="entries not used for so long (h, d, w)")
    prune.add_argument("--max-size", type=_parse_size, metavar="50G", help="size of what stays (K, M, G, T bytes)")
    prune.add_argument("--yes", action="store_true", help="delete, instead of showing what would be deleted")
    return parser


def _parse_age(text: str) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([hdw])", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"an age such as 12h, 30d or 8w was expected; got {text!r}")
    return float(match[1]) * _DAYS[match[2]]


def _parse_size(text: str) -> int:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([KMGT]?)B?", text.upper())
    if match is None:
        raise argparse.ArgumentTypeError(f"a size such as 500M or 50G was expected; got {text!r}")
    return int(float(match[1]) * _UNITS[match[2]])


def _prune(chosen: Sequence[Entry], cache: Path, *, delete: bool) -> None:
    freed = 0
    for entry in chosen:
        deleted = not delete or entry.delete()
        freed += entry.size if deleted else 0
        verb = ("Deleted" if deleted else "In use, kept") if delete else "Would delete"
        _say(f"{verb}: {entry.kind} '{entry.path.relative_to(cache)}', {_size(entry.size)}, {entry.description}")
    summary = "freed" if delete else "would be freed; add --yes to delete"
    _say(f"{_size(freed)} {summary}.")


def _print_table(found: Sequence[Entry], cache: Path) -> None:
    for entry in found:
        used = time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.last_used))
        place = entry.path.relative_to(cache)
        _say(f"{used}  {_size(entry.size):>9}  {entry.kind:<11}  {place}  {entry.description}")
    _say(f"{len(found)} entries, {_size(sum(entry.size for entry in found))} in '{cache}'.")


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")


def _size(size: int) -> str:
    unit = next(unit for unit in ("T", "G", "M", "K", "") if size >= _UNITS[unit] or unit == "")
    return f"{size / _UNITS[unit]:.1f} {unit}B" if unit else f"{size} B"


def _store(folder: Path) -> Entry:
    try:
        identity = json.loads((folder / "identity.json").read_text(encoding="utf-8"))
        description, lock = identity["reading"], folder.parent / f"{identity['fingerprint'][:32]}.lock"
    except (OSError, ValueError, KeyError, TypeError):
        description, lock = "without a readable description", None
    files = [file for file in folder.rglob("*") if file.is_file() and ".corrupt" not in file.name]
    texts = sum(file.suffix == ".safetensors" for file in files)
    return _entry("activations", folder, files, lock, f"{description}, {texts} shards")


def _folder(kind: str, folder: Path) -> Entry:
    files = [file for file in folder.rglob("*") if file.is_file()]
    if ".corrupt" in folder.name:
        kind = "remains"
    lock = folder.with_name(f"{folder.name}.lock") if kind == "model" else None
    return _entry(kind, folder, files, lock, f"{len(files)} files")


def _file(kind: str, file: Path) -> Entry:
    lock = file.with_suffix(".lock") if file.suffix == ".ckpt" else None
    description = "state of an unfinished tuning" if file.suffix == ".ckpt" else file.suffix.lstrip(".")
    return _entry(kind, file, [file], lock, description)


def _entry(kind: str, path: Path, files: Sequence[Path], lock: Path | None, description: str) -> Entry:
    states = [file.stat() for file in files]
    last_used = max((state.st_mtime for state in states), default=path.stat().st_mtime)
    return Entry(kind, path, lock, description, sum(state.st_size for state in states), last_used)


def _is_record(file: Path) -> bool:
    return file.parent.name in {"base", "fingerprints"}


def _is_damaged(entry: Entry) -> bool:
    return entry.kind == "remains" and ".corrupt" in entry.path.name


def _faults_of_store(folder: Path) -> Iterator[tuple[Path, str]]:
    identity = folder / "identity.json"
    expected = identity.read_text(encoding="utf-8", errors="replace") if identity.is_file() else ""
    for shard in sorted(folder.glob("[!.]*.safetensors")):
        try:
            check_values(shard, read_header(shard, identity=expected))
        except DamagedShardError as error:
            yield shard, str(error)
    yield from _faults_of_records(folder.glob("certificate.json"))


def _faults_of_records(files: Iterator[Path] | Sequence[Path]) -> Iterator[tuple[Path, str]]:
    for file in files:
        fault = sealed_fault(file)
        if fault is not None:
            yield file, fault
