from __future__ import annotations

import importlib.util
import inspect
from pathlib import Path

import pytest
import yaml

from probes.report import FilesOnly, MlflowRunLogger, RunLogger, TensorBoardRunLogger, WandbRunLogger

ROOT = Path(__file__).parents[3]
LOGGERS = {"csv": FilesOnly, "mlflow": MlflowRunLogger, "tensorboard": TensorBoardRunLogger, "wandb": WandbRunLogger}
FROM_CONFIG = {"job_type": "${study.name}", "folder": "${paths.output_dir}/mlflow"}


def test_every_logger_has_an_option() -> None:
    assert {path.stem for path in (ROOT / "conf/logger").glob("*.yaml")} == set(LOGGERS)


@pytest.mark.parametrize("option", LOGGERS)
def test_the_config_has_every_argument_with_its_default(option: str) -> None:
    target = LOGGERS[option]
    config = yaml.safe_load((ROOT / f"conf/logger/{option}.yaml").read_text())
    assert config.pop("_target_") == f"probes.report.{target.__name__}"
    assert config.pop("_convert_") == "all"
    defaults = {name: p.default for name, p in inspect.signature(target).parameters.items()}
    if option == "mlflow":
        defaults["tags"] = {}
    shown = {name: tuple(v) if isinstance(v, list) else v for name, v in config.items()}
    replaced = {name: v for name, v in FROM_CONFIG.items() if name in defaults and str(config[name]).startswith("$")}
    assert shown == defaults | replaced


@pytest.mark.parametrize("option", LOGGERS)
def test_every_logger_has_the_methods_of_the_protocol_with_their_arguments(option: str) -> None:
    wanted = {name: method for name, method in vars(RunLogger).items() if not name.startswith("_")}
    assert len(wanted) == 6
    for name, method in wanted.items():
        own = inspect.signature(getattr(LOGGERS[option], name)).parameters
        assert list(own) == list(inspect.signature(method).parameters), name


@pytest.mark.parametrize(
    ("option", "package"), [("mlflow", "mlflow"), ("mlflow", "sqlalchemy"), ("tensorboard", "tensorboard")]
)
def test_a_missing_package_is_refused_before_the_run_with_the_extra_to_install(
    monkeypatch: pytest.MonkeyPatch, option: str, package: str
) -> None:
    found = importlib.util.find_spec
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == package else found("json"))
    with pytest.raises(ModuleNotFoundError, match=rf"needs {package}\. .*`pip install -e '\.\[{option}\]'`"):
        LOGGERS[option]()
    if package == "sqlalchemy":
        MlflowRunLogger(tracking_uri="http://localhost:1")  # a client of a server needs no database
