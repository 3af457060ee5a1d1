"""Code that a config names is called; what is not of the known packages is named first, or refused."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from probes.cli import CONFIG_DIR, OverrideError, refuse_foreign_hydra_nodes
from probes.run import check_targets, run

MY_PROBES = """
from pathlib import Path
from torch import nn

Path(__file__).with_suffix(".imported").touch()

class Probe(nn.Module):
    def __init__(self, in_features, num_classes):
        super().__init__()
        self.linear = nn.Linear(in_features, num_classes)

    def forward(self, x):
        return self.linear(x)
"""


@pytest.fixture
def imported(tmp_path, monkeypatch) -> Path:
    """A module `my_probes` of the working folder; the file of this path appears when it is imported."""
    (tmp_path / "my_probes.py").write_text(MY_PROBES)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path / "my_probes.imported"
    sys.modules.pop("my_probes", None)


def composed(tmp_path: Path, *overrides: str):
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        paths = [f"paths.cache_dir={tmp_path / 'cache'}", f"paths.output_dir={tmp_path / 'out'}"]
        return compose("train", overrides=["experiment=quick", *paths, *overrides])


@pytest.mark.parametrize(
    "target",
    [
        "joblib.load", "pandas.read_pickle", "os.system", "builtins.exec", "subprocess.Popen", "numpy.load",
        "hydra.utils.instantiate", "torch.load", "torch.hub.load", "torch.os.system", "probes.run.instantiate",
        "probes.files.shutil.rmtree", "transformers.pipeline", "torch.nn.functional.torch.load",
    ],
)  # fmt: skip
@pytest.mark.parametrize("key", ["suite", "analysis.measures.mine", "trainer.callbacks"])
def test_code_from_outside_the_known_packages_is_named_or_refused(target, key, caplog):
    cfg = OmegaConf.create({})
    OmegaConf.update(cfg, key, [{"_target_": target}] if key == "trainer.callbacks" else {"_target_": target})
    with caplog.at_level(logging.WARNING):
        check_targets(cfg)
    (message,) = caplog.messages
    assert message.count("\n") == 0
    assert f"={target}" in message
    assert key in message
    cfg.strict_targets = True
    with pytest.raises(ValueError, match=r"`strict_targets=true` refuses it, and nothing was built"):
        check_targets(cfg)


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("probe=mlp",),
        ("study=layer_by_layer",),
        ("logger=wandb",),
        ("probe.architecture._target_=torch.nn.Linear",),
    ],
)
def test_nothing_is_said_of_the_configs_of_the_package(tmp_path, caplog, overrides):
    check_targets(composed(tmp_path, *overrides, "strict_targets=true"))
    assert caplog.messages == []


def test_what_a_strict_run_refuses_is_not_imported_and_leaves_only_the_record_of_that(tmp_path, imported):
    cfg = composed(tmp_path, "probe.architecture._target_=my_probes.Probe", "strict_targets=true")
    with pytest.raises(ValueError, match=r"probe\.architecture\._target_=my_probes\.Probe"):
        run(cfg)
    assert not imported.exists()
    assert {path.name for path in (tmp_path / "out").iterdir() if not path.name.startswith(".")} == {"run_state.json"}
    assert not (tmp_path / "cache").exists()


def test_a_probe_of_the_working_folder_is_named_before_it_is_imported_and_runs(tmp_path, imported, monkeypatch):
    seen = []

    class Watching(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "my_probes.Probe" in record.getMessage():
                seen.append(imported.exists())

    handler = Watching()
    logging.getLogger("probes").addHandler(handler)
    small = ("probe.max_epochs=2", "probe.bootstrap_samples=20", "probe.permutations=0", "suite.tasks=[topic]")
    run(composed(tmp_path, "probe.architecture._target_=my_probes.Probe", *small))
    logging.getLogger("probes").removeHandler(handler)
    assert seen == [False]
    assert (tmp_path / "out/probes/topic.safetensors").exists()


def test_an_interpolated_target_is_seen():
    cfg = OmegaConf.create({"name": "joblib.load", "suite": {"_target_": "${name}"}, "strict_targets": True})
    with pytest.raises(ValueError, match=r"suite\._target_=joblib\.load"):
        check_targets(cfg)


@pytest.mark.parametrize("node", ["hydra.callbacks.mine={_target_: joblib.load}", "hydra.launcher._target_=os.system"])
def test_code_that_hydra_itself_would_build_is_refused_by_a_strict_run(node):
    added = f"+{node}" if "callbacks" in node else node
    refuse_foreign_hydra_nodes([added])
    with pytest.raises(OverrideError, match=r"hydra\.(callbacks\.mine|launcher)\._target_=.*nothing was built"):
        refuse_foreign_hydra_nodes([added, "strict_targets=true"])
    refuse_foreign_hydra_nodes(["strict_targets=true"])
