"""The example plug-in, installed into an empty folder, adds a probe, a suite, a measure and a backbone."""

from __future__ import annotations

import csv
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from probes.backbones.tiny import byte_tokenizer, tiny_backbone
from probes.cli import CONFIG_DIR, OverrideError, check_overrides
from probes.commands.plugins import plugin_folders
from probes.run import check_arguments

ROOT = Path(__file__).parents[2]
PLUGIN = ROOT / "examples/plugin"
CONF = PLUGIN / "probes_example_plugin/conf"
OPTIONS = sorted(f"{path.parent.name}={path.stem}" for path in CONF.glob("*/*.yaml"))


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the plug-in and nothing else, as `pip install` leaves it."""
    if importlib.util.find_spec("hatchling") is None:
        pytest.skip("needs the package hatchling to install the example plug-in")
    folder = tmp_path_factory.mktemp("site")
    offline = ["--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check", "--quiet"]
    subprocess.run(
        [sys.executable, "-m", "pip", "install", *offline, "--target", str(folder), str(PLUGIN)],
        check=True,
        capture_output=True,
        timeout=120,
    )
    return folder


@pytest.fixture
def importable(installed: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(installed)
    return installed


@pytest.mark.slow
def test_one_command_uses_all_parts_of_an_installed_plug_in(installed: Path, tmp_path: Path) -> None:
    tiny_backbone().model.save_pretrained(tmp_path / "model")
    byte_tokenizer().save_pretrained(tmp_path / "model")
    overrides = ["suite=sums", "probe=cosine", "analysis=norms", "backbone=untrained", "backbone.name=model"]
    quick = ["suite.max_rows=60", "probe.max_epochs=3", "logger=csv", "hydra.run.dir=out"]
    done = subprocess.run(
        [sys.executable, str(ROOT / "train.py"), *overrides, *quick],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(installed), "PROBES_CACHE_DIR": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    with (tmp_path / "out/results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["backbone"] for row in rows} == {"model untrained"}
    assert {(row["task"], row["probe"]) for row in rows if row["metric"] == "accuracy"} == {("sums", "cosine")}
    norms = [row for row in rows if row["metric"] == "mean_norm"]
    assert len(norms) == 4  # layers
    assert all(float(row["ci_low"]) < float(row["value"]) < float(row["ci_high"]) for row in norms[1:])
    assert (tmp_path / "out/layer_by_task/mean_norm.csv").exists()


@pytest.mark.usefixtures("importable")
class TestInstalled:
    def test_its_config_folder_is_found_without_importing_it(self, importable: Path) -> None:
        assert plugin_folders() == {"example": importable / "probes_example_plugin/conf"}
        assert "probes_example_plugin" not in sys.modules

    @pytest.mark.parametrize("option", OPTIONS)
    def test_every_option_composes_with_arguments_that_its_code_takes(self, option: str) -> None:
        with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
            check_arguments(compose("train", overrides=[option]))

    def test_an_unknown_option_is_refused_with_those_of_plug_ins(self) -> None:
        check_overrides(["probe=cosine", "probe.architecture.scale=5"])
        with pytest.raises(
            OverrideError, match=r"has no option 'cosin'\. Did you mean `cosine`\? It has attention, cosine, lda, lin"
        ):
            check_overrides(["probe=cosin"])


def test_without_the_plug_in_its_options_are_unknown() -> None:
    assert plugin_folders() == {}
    of_the_project = "attention, lda, linear, low_rank, mlp, multi_max, ridge"
    with pytest.raises(OverrideError, match=rf"`probe` has no option 'cosine'\..* It has {of_the_project}\."):
        check_overrides(["probe=cosine"])


def test_a_folder_in_the_search_path_of_hydra_adds_options_wherever_it_stands_in_the_command() -> None:
    place = f"hydra.searchpath=[file://{CONF}]"
    check_overrides(["probe=cosine", place])
    check_overrides([place, "probe=cosine"])
    with pytest.raises(OverrideError, match=r"Did you mean `cosine`\?"):
        check_overrides(["probe=cosin", place])


@pytest.mark.parametrize("value", ["no_such_package", "probes.cli", "json"])
def test_an_entry_point_without_a_config_folder_is_warned_of(
    value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = tmp_path / "broken-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[probes.plugins]\nmine = {value}\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.warns(UserWarning, match=rf"Plug-in 'mine' of broken adds no options: there is no package '{value}'"):
        assert plugin_folders() == {}
