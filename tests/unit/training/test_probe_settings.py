from __future__ import annotations

import inspect
from dataclasses import fields
from functools import partial
from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from probes.architectures import LinearProbe, MLPProbe
from probes.training import ProbeSettings

CONF = Path(__file__).parents[3] / "conf"
FILES = sorted((CONF / "probe").glob("*.yaml"))


def composed(group, name, *overrides):
    with initialize_config_dir(str(CONF), version_base=None):
        return compose(overrides=[f"+{group}={name}", *overrides])[group]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("fit", "lbfgs"),
        ("class_weights", "even"),
        ("schedule", "cosine"),
        ("penalties", ()),
        ("penalties", (-1.0,)),
        ("penalties", (1.0, 1.0)),
        ("penalties", (float("nan"),)),
        ("controls", -1),
        ("controls", 1.5),
        ("folds", 1),
        ("min_validation_rows", -1),
        ("learning_rate", 0.0),
        ("batch_size", 0),
        ("max_epochs", 0),
        ("patience", 0),
        ("gradient_clip_norm", 0.0),
        ("max_iterations", 0),
        ("tolerance", 0.0),
        ("bootstrap_samples", -1),
        ("training_sets", -1),
        ("training_sets", 1),
        ("training_sets", "all"),
        ("max_bank_bytes", 0),
    ],
)
def test_a_value_out_of_range_is_an_error_that_names_its_key(field, value):
    with pytest.raises(ValueError, match=rf"`probe\.{field}`"):
        ProbeSettings(**{field: value})


def test_auto_refits_exact_probes_of_few_training_rows_if_there_are_intervals():
    assert [ProbeSettings().sets_to_refit(rows, exact=True) for rows in (499, 500)] == [20, 0]
    assert ProbeSettings().sets_to_refit(499, exact=False) == 0
    assert ProbeSettings(bootstrap_samples=0, training_sets=5).sets_to_refit(499, exact=True) == 0
    assert ProbeSettings(training_sets=5).sets_to_refit(10_000, exact=False) == 5


def test_an_unknown_choice_is_an_error_that_lists_the_choices():
    with pytest.raises(ValueError, match=r"There is no fit 'newton'\. There are auto, exact, minibatch"):
        ProbeSettings(fit="newton")  # pyright: ignore[reportArgumentType]


def test_an_architecture_that_cannot_be_called_is_an_error():
    with pytest.raises(TypeError, match=r"got str.*`probe\.architecture\._target_`"):
        ProbeSettings(architecture="LinearProbe")  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_config_has_the_fields_of_the_settings(file):
    node = composed("probe", file.stem)
    assert set(node) - {"_target_", "_convert_"} == {field.name for field in fields(ProbeSettings)}
    settings = instantiate(node)
    assert isinstance(settings, ProbeSettings)
    assert settings.name == file.stem
    arguments = set(node.architecture) - {"_target_", "_partial_"}
    assert arguments <= set(inspect.signature(settings.architecture.func).parameters)


def test_the_linear_config_holds_the_defaults():
    settings = instantiate(composed("probe", "linear"))
    assert settings.architecture.func is LinearProbe
    for field in fields(ProbeSettings):
        if field.name != "architecture":
            assert getattr(settings, field.name) == field.default, field.name


def test_the_mlp_config_holds_the_architectures_defaults():
    node = composed("probe", "mlp")
    defaults = {
        name: parameter.default
        for name, parameter in inspect.signature(MLPProbe).parameters.items()
        if parameter.default is not inspect.Parameter.empty
    }
    assert {name: node.architecture[name] for name in defaults} == defaults


def test_another_architecture_needs_one_override_only():
    node = composed("probe", "linear", "probe.architecture._target_=torch.nn.Linear")
    settings = instantiate(node)
    assert settings.architecture(4, 3).weight.shape == (3, 4)
    assert settings.fit == "auto"


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_field_of_a_config_is_explained(file):
    keys = set(yaml.safe_load(file.read_text())) - {"_target_", "_convert_", "defaults", "architecture"}
    for line in file.read_text().splitlines():
        if line.partition(":")[0] in keys:
            assert " # " in line, line


@pytest.mark.parametrize("file", sorted((CONF / "trainer").glob("*.yaml")), ids=lambda file: file.stem)
def test_every_trainer_config_makes_a_factory_of_trainers(file):
    factory = instantiate(composed("trainer", file.stem))
    assert isinstance(factory, partial)
    assert factory.func.__name__ == "Trainer"
    assert set(factory.keywords) <= set(inspect.signature(factory.func).parameters)
    if file.stem == "cpu":
        assert factory(max_epochs=3).max_epochs == 3
