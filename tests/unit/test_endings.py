from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.errors import InstantiationException
from hydra.utils import instantiate

from probes.cli import CONFIG_DIR, OverrideError, check_overrides
from probes.commands import endings
from probes.commands.errors import explanation, unwrapped


def raised(call) -> Exception:
    try:
        call()
    except Exception as error:
        return error
    raise AssertionError("nothing was raised")


def built(*overrides: str, part: str):
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        return instantiate(compose("train", overrides=list(overrides))[part])


def test_a_mistake_that_this_package_names_explains_itself_without_hydras_words():
    error = raised(lambda: built("extraction.max_length=0", part="extraction"))
    assert isinstance(error, InstantiationException)
    assert explanation(error) == "`extraction.max_length` must be at least 1; got 0."
    assert type(unwrapped(error)) is ValueError


def test_a_mistyped_override_explains_itself():
    error = raised(lambda: check_overrides(["sead=1"]))
    assert isinstance(error, OverrideError)
    assert "Did you mean `seed`?" in explanation(error)


def test_a_missing_file_that_this_package_opens_explains_itself(tmp_path):
    from probes.report import read_results

    assert str(tmp_path / "none.csv") in explanation(raised(lambda: read_results(tmp_path / "none.csv")))


def test_a_missing_value_of_the_config_explains_itself():
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        cfg = compose("train", overrides=["suite=local", "suite.path=???"])
    assert "suite.path" in explanation(raised(lambda: cfg.suite.path))


@pytest.mark.parametrize(
    "call", [lambda: int("x"), lambda: {}["x"], lambda: Path("/none/such").read_text(), lambda: [][1]]
)
def test_an_error_of_other_code_needs_its_traceback(call):
    assert explanation(raised(call)) is None


@pytest.mark.parametrize(("first", "bars"), [("", True), ("without_bars()", False)])
def test_where_there_is_no_terminal_libraries_draw_no_progress_bars(first, bars):
    imports = "from probes.commands.endings import without_bars"
    code = f"{imports}; {first or None}\nfrom tqdm import tqdm; list(tqdm(range(3)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ("3/3" in done.stderr) == bars


def test_the_command_that_goes_on_does_not_depend_on_arguments_that_were_changed_later(monkeypatch):
    before = endings._command()
    monkeypatch.setattr(sys, "argv", [sys.argv[0], "-m", *sys.argv[1:], "hydra/sweeper=stages"])
    assert endings._command() == before
