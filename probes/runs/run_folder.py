"""A run's folder: it belongs to one run at a time, and says whether what lies in it is finished."""

from __future__ import annotations

import json
import logging
import math
import os
import platform
import re
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, TypeGuard, get_args

from probes.files import digest_of_json, write_json
from probes.locks import holder_of, process_lock
from probes.runs.masking import mask_secrets
from probes.runs.signals import at_hard_exit, ended_by_signals

_log = logging.getLogger(__name__)

STATE_FILE = "run_state.json"
State = Literal["running", "finished", "failed", "interrupted"]

_LOCK = ".run.lock"
_SECONDS_FOR_THE_LOCK = 0.1
_RESULTS = ("results.csv", "provenance.json")
"""One of these tells of a run even where there is no state file."""
_WRITTEN_FOLDERS = (
    "layer_by_task", "layer_by_layer", "figures", "maps", "predictions", "probes", "tables", "attributions", ".hydra",
)  # fmt: skip
_WRITTEN = (
    *_RESULTS, *_WRITTEN_FOLDERS, STATE_FILE, "config.yaml", "best_layers.csv", "audit.csv", "report.html",
    "wandb_run_id.txt", "mlflow_run_id.txt", "wandb", "tensorboard",
)  # fmt: skip
_LITTER = re.compile(r"\.(.+)-[a-z0-9_]{8}\.(csv|json|png|safetensors|txt|yaml)")
"""Names of half-written files: those of `probes.files.replaced_file`."""
_WITHOUT_EFFECT = {"resume", "debug"}
"""Keys of the config that change nothing about a run's results."""


class RunFolderError(ValueError):
    """The folder holds what another run has left, or another run is writing there."""


@dataclass(frozen=True, kw_only=True)
class RunState:
    """What `run_state.json` says.

    Attributes:
        state: Of the run. Whatever is not `finished` may have left a part of its results only.
        config_digest: Of the run's config, see `config_digest`.
        command: The command line; empty if the run was started from Python.
        overrides: What the command line changed in the config, without Hydra's own keys.
        pid: The process.
        host: Its machine.
        started: When it began, ISO 8601.
        ended: When it ended; `None` while it runs.
        objective: What the study returned; NaN if it has not finished, or returned no number.
        error: Message of the error that ended it.
        traceback: Where that error was raised.
    """

    state: State
    config_digest: str
    command: Sequence[str] = ()
    overrides: Sequence[str] = ()
    pid: int = 0
    host: str = ""
    started: str = ""
    ended: str | None = None
    objective: float = math.nan
    error: str | None = None
    traceback: str | None = None


def read_state(folder: Path) -> RunState | None:
    """The state of the run in a folder; `None` if there is none, or its file is no state.

    A run of this machine whose process is gone without having said so, because it was killed, is `interrupted`.
    """
    try:
        content = json.loads((folder / STATE_FILE).read_text(encoding="utf-8"))
        known: dict[str, Any] = {field.name: content[field.name] for field in fields(RunState) if field.name in content}
        known["objective"] = _number(content.get("objective"))
        state = RunState(**known)
    except (OSError, ValueError, TypeError, AttributeError):
        return None
    if state.state not in get_args(State):
        return None
    if state.state == "running" and state.host == platform.node() and not _exists(state.pid):
        return replace(state, state="interrupted")
    return state


def config_digest(config: Mapping[str, Any]) -> str:
    """Digest of a resolved config, without the keys that only say where results go and how a run is started.

    >>> config_digest({"extraction": {"site": "mlp", "workers": 2}}) == config_digest({"extraction": {"site": "mlp"}})
    True
    """
    paths = {key: value for key, value in (config.get("paths") or {}).items() if key != "output_dir"}
    content = {key: value for key, value in config.items() if key not in _WITHOUT_EFFECT}
    if isinstance(extraction := content.get("extraction"), Mapping):
        content["extraction"] = {key: value for key, value in extraction.items() if key != "workers"}
    return digest_of_json(content | {"paths": paths})


def is_finished(state: RunState | None, digest: str) -> TypeGuard[RunState]:
    """Whether a folder's run has finished with the config of this digest."""
    return state is not None and state.state == "finished" and state.config_digest == digest


def new_numbered_folder(path: Path) -> Path:
    """Make a folder that did not exist: `path`, or `path-1`, `path-2` and so on if the name is taken."""
    path.parent.mkdir(parents=True, exist_ok=True)
    number, candidate = 0, path
    while True:
        try:
            candidate.mkdir()
        except FileExistsError:
            number += 1
            candidate = path.with_name(f"{path.name}-{number}")
        else:
            return candidate


def run_in_folder(
    folder: Path,
    study: Callable[[], float],
    *,
    digest: str,
    command: Sequence[str] = (),
    overrides: Sequence[str] = (),
    resume: bool = False,
    key: str = "paths.output_dir",
) -> float:
    """Run a study in its folder, and keep the folder's `run_state.json` true.

    A run of the same config goes on if it has not finished, and is taken as it is if it has. Whatever else lies there
    is refused unless `resume` is set: then it is moved to a folder `earlier`, `earlier-1` and so on, so that results of
    two configs are never mixed.

    Args:
        folder: The folder; made if it does not exist.
        study: Does the work and returns the number a sweep maximises.
        digest: `config_digest` of the config.
        command: For the record.
        overrides: For the record.
        resume: Go on in a folder that another run has used.
        key: The config key that names the folder, for errors.

    Returns:
        What the study returns, or had returned.

    Raises:
        RunFolderError: The folder holds what another run has left, or another run is writing there.
        Interrupted: A signal asked the run to end.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with _alone_in(folder, key):
        earlier = read_state(folder)
        same = earlier is not None and earlier.config_digest == digest
        if is_finished(earlier, digest):
            _log.warning(
                "The run in '%s' has finished with this config (%s): nothing is computed again. To compute it anew, "
                "set `%s` to another folder.", folder, earlier.ended, key,
            )  # fmt: skip
            return earlier.objective
        _prepare(folder, earlier, same=same, resume=resume, key=key)
        state = RunState(
            state="running", config_digest=digest, command=list(command), overrides=list(overrides), pid=os.getpid(),
            host=platform.node(), started=_now(),
        )  # fmt: skip
        with at_hard_exit(lambda signal: _end(folder, state, "interrupted", error=str(signal))):
            try:
                with ended_by_signals():
                    _write(folder, state)
                    objective = study()
            except KeyboardInterrupt as interrupt:
                _end(folder, state, "interrupted", error=str(interrupt) or "Interrupted")
                raise
            except BaseException as error:
                trace = "".join(traceback.format_exception(error))
                _end(folder, state, "failed", error=f"{type(error).__name__}: {error}", traceback=trace)
                raise
        _end(folder, state, "finished", objective=float(objective))
        return objective


def _prepare(folder: Path, earlier: RunState | None, *, same: bool, resume: bool, key: str) -> None:
    """Make the folder ready for a run.

    Raises:
        RunFolderError: It holds what another run has left.
    """
    if earlier is None and not any((folder / name).exists() for name in _RESULTS):
        return
    if earlier is not None and same:
        _log.info("Going on in '%s', whose last run was %s.", folder, earlier.state)
        _remove_litter(folder)
        return
    if not resume:
        which = "an unknown config" if earlier is None else "another config"
        when = "" if earlier is None else f" ({earlier.state}, started {earlier.started})"
        raise RunFolderError(
            f"'{folder}' holds what a run of {which} has left{when}. Set `{key}` to another folder, or `resume=true` "
            "to move that to a folder in there, and start."
        )
    _remove_litter(folder)
    _move_aside(folder)


def _move_aside(folder: Path) -> None:
    """Move the results of an earlier run to a folder of their own."""
    target = new_numbered_folder(folder / "earlier")
    for path in (folder / name for name in _WRITTEN):
        if path.exists():
            path.rename(target / path.name)
    _log.warning("What an earlier run has left in '%s' is now in '%s'.", folder, target.name)


def _remove_litter(folder: Path) -> None:
    """Delete files that killed runs have left half written; the folder is locked, so that nobody is writing them."""
    stems = {Path(name).stem for name in _WRITTEN}
    own = [path for path in folder.glob(".*") if (name := _LITTER.fullmatch(path.name)) and name[1] in stems]
    below = [path for name in _WRITTEN_FOLDERS for path in (folder / name).rglob(".*") if _LITTER.fullmatch(path.name)]
    for path in (*own, *below):
        path.unlink(missing_ok=True)


@contextmanager
def _alone_in(folder: Path, key: str) -> Iterator[None]:
    """Hold the folder's lock.

    Raises:
        RunFolderError: Another run holds it.
    """
    lock = folder / _LOCK
    entered = False
    try:
        with process_lock(lock, what=f"the folder '{folder}'", timeout=_SECONDS_FOR_THE_LOCK):
            entered = True
            yield
    except TimeoutError as error:
        if entered:
            raise
        raise RunFolderError(
            f"Another run is writing in '{folder}': {holder_of(lock)}. Wait for it, or set `{key}` to another folder."
        ) from error


def _end(folder: Path, state: RunState, name: State, **facts: Any) -> None:
    _write(folder, replace(state, state=name, ended=_now(), **facts))


def _write(folder: Path, state: RunState) -> None:
    write_json(folder / STATE_FILE, mask_secrets(asdict(state)))


def _now() -> str:
    return datetime.now().astimezone().isoformat(timespec="seconds")


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else math.nan


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
