"""A run's folder is its own, says how the run ended, and never mixes the results of two configs."""

from __future__ import annotations

import csv
import json
import math
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from probes.report import read_results, write_results
from probes.runs.run_folder import (
    RunFolderError,
    RunState,
    config_digest,
    new_numbered_folder,
    read_state,
    run_in_folder,
)
from probes.runs.signals import Interrupted
from probes.values import Result


def study(folder: Path, value: float = 0.5):
    """A study that leaves one result."""

    def run() -> float:
        write_results([Result(value=value)], folder / "results.csv")
        return value

    return run


def ended_by(folder: Path, error: BaseException):
    """A study that leaves its first result, then ends with an error."""

    def run() -> float:
        study(folder, 0.25)()
        raise error

    return run


def state_of(folder: Path) -> RunState:
    state = read_state(folder)
    assert state is not None
    return state


def value_in(folder: Path) -> float:
    with (folder / "results.csv").open() as file:
        return float(next(csv.DictReader(file))["value"])


def test_the_state_is_running_within_and_finished_after(tmp_path):
    seen = []
    run_in_folder(
        tmp_path, lambda: seen.append(state_of(tmp_path)) or 0.5, digest="a", command=["x"], overrides=["y=1"]
    )
    state = state_of(tmp_path)
    assert (seen[0].state, seen[0].pid, seen[0].ended) == ("running", os.getpid(), None)
    assert (state.state, state.objective, state.config_digest) == ("finished", 0.5, "a")
    assert (state.command, state.overrides) == (["x"], ["y=1"])
    assert state.ended is not None
    assert state.error is None


def test_an_objective_that_is_no_number_reads_back(tmp_path):
    assert math.isnan(run_in_folder(tmp_path, lambda: math.nan, digest="a"))
    assert math.isnan(run_in_folder(tmp_path, lambda: 1 / 0, digest="a"))


@pytest.mark.parametrize(
    ("error", "state"),
    [(Interrupted(15), "interrupted"), (KeyboardInterrupt(), "interrupted"), (OSError("x"), "failed")],
)
def test_a_run_that_ends_early_marks_its_partial_results(tmp_path, caplog, error, state):
    with pytest.raises(type(error)):
        run_in_folder(tmp_path, ended_by(tmp_path, error), digest="a")
    assert state_of(tmp_path).state == state
    assert state_of(tmp_path).error
    read_results(tmp_path / "results.csv")
    assert f"may be incomplete: its run is {state}" in caplog.text


def test_finished_results_are_read_without_a_warning(tmp_path, caplog):
    run_in_folder(tmp_path, study(tmp_path), digest="a")
    read_results(tmp_path / "results.csv")
    assert caplog.text == ""


def test_a_run_that_was_killed_counts_as_interrupted(tmp_path):
    code = (
        "import os, sys; from pathlib import Path; from probes.runs.run_folder import run_in_folder\n"
        "run_in_folder(Path(sys.argv[1]), lambda: os.kill(os.getpid(), 9), digest='a')"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    assert json.loads((tmp_path / "run_state.json").read_text())["state"] == "running"
    assert state_of(tmp_path).state == "interrupted"
    assert run_in_folder(tmp_path, study(tmp_path), digest="a") == 0.5
    assert state_of(tmp_path).state == "finished"


def test_an_unfinished_run_of_the_same_config_goes_on(tmp_path):
    with pytest.raises(OSError, match="disk"):
        run_in_folder(tmp_path, ended_by(tmp_path, OSError("disk")), digest="a")
    run_in_folder(tmp_path, study(tmp_path), digest="a")
    assert (state_of(tmp_path).state, value_in(tmp_path)) == ("finished", 0.5)


@pytest.mark.parametrize("ending", ["finished", "failed"])
def test_another_config_is_refused_and_changes_nothing(tmp_path, ending):
    first = study(tmp_path, 0.25) if ending == "finished" else ended_by(tmp_path, ValueError())
    try:
        run_in_folder(tmp_path, first, digest="a")
    except ValueError:
        assert ending == "failed"
    before = {path.name: path.read_bytes() for path in tmp_path.glob("*.*")}
    with pytest.raises(RunFolderError, match=rf"another config has left \({ending}, .*`hydra.run.dir`.*`resume=true`"):
        run_in_folder(tmp_path, study(tmp_path), digest="b", key="hydra.run.dir")
    assert {path.name: path.read_bytes() for path in tmp_path.glob("*.*")} == before


def test_a_finished_run_of_the_same_config_is_taken_as_it_is(tmp_path, caplog):
    run_in_folder(tmp_path, study(tmp_path, 0.25), digest="a")
    for resume in (False, True):
        assert run_in_folder(tmp_path, study(tmp_path), digest="a", resume=resume) == 0.25
    assert value_in(tmp_path) == 0.25
    assert caplog.text.count("nothing is computed again") == 2
    assert "set `paths.output_dir` to another folder" in caplog.text


def test_results_without_a_state_are_those_of_an_unknown_run(tmp_path):
    study(tmp_path)()
    with pytest.raises(RunFolderError, match="unknown config"):
        run_in_folder(tmp_path, study(tmp_path), digest="a")


def test_resuming_with_another_config_keeps_the_earlier_results_apart(tmp_path):
    for number, name in enumerate(("a", "b", "c")):
        (tmp_path / "notes.txt").write_text("mine")
        run_in_folder(tmp_path, study(tmp_path, number), digest=name, resume=True)
    assert value_in(tmp_path) == 2
    assert [value_in(tmp_path / name) for name in ("earlier", "earlier-1")] == [0, 1]
    assert state_of(tmp_path / "earlier").config_digest == "a"
    assert (tmp_path / "notes.txt").is_file()


def test_other_files_in_a_folder_are_no_reason_to_refuse_it(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    assert run_in_folder(tmp_path, study(tmp_path), digest="a") == 0.5


def test_two_runs_at_once_in_one_folder_are_refused(tmp_path):
    entered, may_end = threading.Event(), threading.Event()
    first = threading.Thread(
        target=run_in_folder, args=(tmp_path, lambda: entered.set() or float(may_end.wait(10))), kwargs={"digest": "a"}
    )
    first.start()
    assert entered.wait(10)
    try:
        with pytest.raises(
            RunFolderError, match=f"Another run is writing .* process {os.getpid()} on .*`paths.output_dir`"
        ):
            run_in_folder(tmp_path, study(tmp_path), digest="a")
    finally:
        may_end.set()
        first.join()
    assert state_of(tmp_path).state == "finished"


def test_litter_of_a_killed_run_is_removed_and_nothing_else(tmp_path):
    litter = [tmp_path / ".results-a8_2hxyz.csv", tmp_path / "figures/.accuracy-00000000.png"]
    mine = [
        tmp_path / ".pre-commit-config.yaml",
        tmp_path / "data/.results-a8_2hxyz.csv",
        tmp_path / ".env-settings.csv",
    ]
    for path in (*litter, *mine):
        path.parent.mkdir(exist_ok=True)
        path.touch()
    with pytest.raises(ZeroDivisionError):
        run_in_folder(tmp_path, ended_by(tmp_path, ZeroDivisionError()), digest="a")
    assert all(path.exists() for path in litter)  # a folder without a run: nobody knows whose files these are
    run_in_folder(tmp_path, study(tmp_path), digest="a")
    assert not any(path.exists() for path in litter)
    assert all(path.exists() for path in mine)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"state": "odd", "config_digest": "a"}'])
def test_a_state_that_cannot_be_read_is_none(tmp_path, text):
    (tmp_path / "run_state.json").write_text(text)
    assert read_state(tmp_path) is None
    assert read_state(tmp_path / "missing") is None


def test_folders_made_at_the_same_time_under_one_name_are_different(tmp_path):
    made = []
    threads = [
        threading.Thread(target=lambda: made.append(new_numbered_folder(tmp_path / "a/18-00-00"))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {path.name for path in made} == {"18-00-00", *(f"18-00-00-{number}" for number in range(1, 8))}


def test_the_digest_ignores_only_where_results_go_and_how_a_run_is_started():
    config = {"seed": 0, "paths": {"output_dir": "a", "cache_dir": "c"}, "resume": False, "debug": False}
    same = {"seed": 0, "paths": {"output_dir": "b", "cache_dir": "c"}, "resume": True, "debug": True}
    assert config_digest(config) == config_digest(same)
    assert config_digest(config) != config_digest(config | {"seed": 1})
