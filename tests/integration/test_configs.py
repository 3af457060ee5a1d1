"""Config files match the signatures of what they build, and the command line explains mistyped overrides."""

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import get_object
from omegaconf import OmegaConf

from probes.cli import CONFIG_DIR, OverrideError, check_overrides, refuse_unknown_command
from probes.run import check_arguments

FILES = sorted(path for path in CONFIG_DIR.glob("*/*.yaml") if not path.stem.startswith("_"))
GIVEN_BY_STUDY = {"analysis", "reference", "live"}
"""Arguments of the callback that a study passes; no config names them."""


def composed(*overrides: str):
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        return compose("train", overrides=list(overrides))


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_option_composes_and_has_exactly_the_arguments_of_what_it_builds(path: Path):
    cfg = composed(f"{path.parent.name}={path.stem}")
    check_arguments(cfg)
    node = cfg[path.parent.name] if path.parent.name not in {"experiment", "hydra"} else OmegaConf.create()
    if "_target_" not in node or node._target_ == "lightning.Trainer":
        return
    given = GIVEN_BY_STUDY if path.parent.name == "callbacks" else set()
    parameters = set(inspect.signature(get_object(node._target_)).parameters) - given
    assert parameters == set(node) - {"_target_", "_partial_", "_convert_"}


def differing_defaults(node: Any, key: str = "study") -> Iterator[str]:
    """Keys of a config whose value is not that of the argument in Python; parts that are called later are left out."""
    if not isinstance(node, dict) or "_partial_" in node:
        return
    parameters = inspect.signature(get_object(node["_target_"])).parameters if "_target_" in node else {}
    for name, value in node.items():
        yield from differing_defaults(value, f"{key}.{name}")
        default = parameters[name].default if name in parameters else value
        default = list(default) if isinstance(default, tuple) else default
        if not isinstance(value, dict) and value != default:
            yield f"{key}.{name}: {value} in conf, {default} in Python"


STUDIES = [path for path in FILES if path.parent.name == "study"]


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_the_settings_of_a_study_have_the_same_defaults_in_python(path: Path):
    assert list(differing_defaults(OmegaConf.to_container(OmegaConf.load(path)))) == []


PROBE_MEASURES = sorted((CONFIG_DIR / "analysis" / "probe_measures").glob("*.yaml"))


@pytest.mark.parametrize("path", PROBE_MEASURES, ids=lambda path: path.stem)
def test_every_measure_of_probes_can_be_chosen_with_exactly_the_arguments_of_its_class(path: Path):
    cfg = composed(f"analysis/probe_measures=[{path.stem}]")
    check_arguments(cfg)
    (node,) = cfg.analysis.probe_measures.values()
    parameters = set(inspect.signature(get_object(node._target_)).parameters)
    assert parameters == set(node) - {"_target_"}


OF_COMMENTED_KEYS = [path for path in FILES if path.parent.name in {"extraction", "probe"}] + PROBE_MEASURES


@pytest.mark.parametrize("path", OF_COMMENTED_KEYS, ids=lambda path: path.stem)
def test_every_key_of_these_files_has_a_comment(path: Path):
    _every_key_has_a_comment(path)


def _every_key_has_a_comment(path: Path):
    lines = [line for line in path.read_text().splitlines() if ":" in line and not line.strip().startswith("#")]
    keys = [line for line in lines if not line.lstrip().startswith(("_", "-", "defaults"))]
    assert not [line for line in keys if "#" not in line and not line.endswith(":")]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("sead=1", r"There is no config key `sead`\. Did you mean `seed`\?"),
        ("+sead=1", r"Nothing reads `sead`\. Did you mean `seed`\?"),
        ("+experimental=1", r"Nothing reads `experimental`"),
        ("++sead=1", r"Nothing reads `sead`\. Did you mean `seed`\?"),
        ("sead=1,2", r"Did you mean `seed`\?"),
        ("backbone.layerz=all", r"no config key `backbone\.layerz`\. Did you mean `backbone\.layers`\?"),
        ("backbone=smolm2", r"`backbone` has no option 'smolm2'\. Did you mean `smollm2`\? It has gguf, hub, local"),
        ("bakbone=tiny", r"Did you mean `backbone`\?"),
        ("experiment=qick", r"Did you mean `quick`\?"),
        ("probe.penaltys=[1]", r"Did you mean `probe\.penalties`\?"),
        ("seed={", "An override cannot be read"),
        ("paths.cache_dir=${nothing", "An override cannot be read"),
    ],
)
def test_a_mistyped_override_is_refused_with_the_closest_name(override: str, message: str):
    with pytest.raises(OverrideError, match=message):
        check_overrides([override])


@pytest.mark.parametrize(
    "override",
    [
        "seed=3",
        "seed=0,1,2",
        "probe=linear,mlp",
        "seed=range(0,3)",
        "backbone=glob(*)",
        "extraction.pooling=[last,mean]",
        "hydra.run.dir=somewhere",
        "experiment=quick",
        "probe.architecture._target_=my.module.MyProbe",
        "+probe.architecture.hidden_features=8",
        "++seed=3",
        "~trainer.devices",
    ],
)
def test_a_correct_override_is_accepted(override: str):
    check_overrides([override])


def test_a_word_that_is_no_command_is_refused_with_the_closest_name():
    with pytest.raises(
        OverrideError, match=r"There is no command `cmopare`\. Did you mean `compare`\? There are cache"
    ):
        refuse_unknown_command("cmopare")
    for word in ("compare", "seed=1", "-m", "~trainer.devices", "+experiment=quick", "--help"):
        refuse_unknown_command(word)


def test_an_argument_that_nothing_takes_is_refused_with_the_closest_name():
    cfg = composed("probe=mlp", "+probe.architecture.hidden_featurez=8")
    with pytest.raises(
        ValueError, match=r"`probe\.architecture\.hidden_featurez`.*`probe\.architecture\.hidden_features`"
    ):
        check_arguments(cfg)
    check_arguments(composed("probe=mlp", "probe.architecture.activation=relu", "backbone=tiny"))


@pytest.mark.parametrize("study", ["steer", "attribute", "erase"])
def test_other_studies_of_interventions_take_the_tasks_of_the_experiment(study: str):
    cfg = composed("experiment=decodable_or_used", f"study={study}")
    assert cfg.study.name == study
    assert cfg.suite.prompt == "instruction"
    check_arguments(cfg)
