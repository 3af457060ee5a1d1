"""A probes file decides nothing about what code runs: its architecture must be allowed before it is imported."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from planted_tasks import fit, planted_task
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from probes.training import load_probes

WRITES_A_FILE = "from pathlib import Path\nPath(__file__).with_suffix('.ran').touch()\n"
OWN_PROBE = """
from torch import nn

class Probe(nn.Module):
    def __init__(self, in_features, num_classes, **arguments):
        super().__init__()
        self.linear = nn.Linear(in_features, num_classes)

    def forward(self, x):
        return self.linear(x)

def make(in_features, num_classes, **arguments):
    return Probe(in_features, num_classes)

class NoProbe:
    def __init__(self, *_, **__):
        raise SystemExit("built")
"""


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    return fit(planted_task()).save(tmp_path_factory.mktemp("saved") / "probes.safetensors")


@pytest.fixture
def my_probes(tmp_path, monkeypatch) -> Path:
    """A module `my_probes` of the user, which leaves `my_probes.ran` when it is imported."""
    (tmp_path / "my_probes.py").write_text(WRITES_A_FILE + OWN_PROBE)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path / "my_probes.ran"
    sys.modules.pop("my_probes", None)


def forged(saved: Path, folder: Path, **changes: Any) -> Path:
    """The saved probes with another header."""
    with safe_open(saved, framework="pt") as file:
        header = json.loads(file.metadata()["probes"])
    path = folder / "forged.safetensors"
    save_file(load_file(saved), path, metadata={"probes": json.dumps(header | changes)})
    return path


def test_a_file_that_names_a_program_starter_starts_nothing(saved, tmp_path):
    ran = tmp_path / "ran"
    path = forged(saved, tmp_path, architecture="subprocess.Popen", arguments={"args": ["touch", str(ran)]})
    with pytest.raises(ValueError, match=r"names 'subprocess\.Popen'.*allowed are probes\.architectures.*allow=\['sub"):
        load_probes(path)
    assert not ran.exists()


@pytest.mark.parametrize(
    "name",
    [
        "os.system",
        "builtins.exec",
        "torch.hub.load",
        "probes.architectures.mlp.nn.Linear",
        "probes.architectures.protocol.functools.partial",
        "probes.architectures.linear.nn.modules.module.torch.os.system",
        "probes.architectures.ACTIVATION_FUNCTIONS",
        "probes.architecturesque.Probe",
        "probes.run.run",
        "",
        None,
        ["os.system"],
    ],
)
def test_what_is_no_architecture_of_the_package_is_refused(saved, tmp_path, name):
    with pytest.raises(ValueError, match=r"forged\.safetensors' names .* architecture"):
        load_probes(forged(saved, tmp_path, architecture=name))


def test_a_module_that_is_not_allowed_is_not_even_imported(saved, tmp_path, my_probes):
    path = forged(saved, tmp_path, architecture="my_probes.Probe", arguments={})
    with pytest.raises(ValueError, match=r"`load_probes\(path, allow=\['my_probes'\]\)`"):
        load_probes(path)
    assert not my_probes.exists()
    assert "my_probes" not in sys.modules


@pytest.mark.parametrize("name", ["my_probes.Probe", "my_probes.make"])
def test_a_module_that_the_caller_allows_is_used(saved, tmp_path, my_probes, name):
    path = forged(saved, tmp_path, architecture=name, arguments={})
    assert load_probes(path, allow=["my_probes"]).architecture.func.__name__ == name.rpartition(".")[2]
    assert my_probes.exists()


@pytest.mark.parametrize("name", ["my_probes.NoProbe", "my_probes.nn.Linear", "my_probes.Path"])
def test_an_allowed_module_gives_only_its_own_architectures(saved, tmp_path, my_probes, name):
    with pytest.raises(ValueError, match="is not an architecture defined in"):
        load_probes(forged(saved, tmp_path, architecture=name, arguments={}), allow=["my_probes"])


def test_arguments_in_a_header_are_values_and_never_resolved(saved, tmp_path, my_probes):
    ran = tmp_path / "ran"
    nested = {"_target_": "subprocess.Popen", "args": ["touch", str(ran)]}
    path = forged(saved, tmp_path, architecture="my_probes.make", arguments={"a": nested, "b": [nested]})
    loaded = load_probes(path, allow=["my_probes"])
    assert loaded.architecture.keywords == {"a": nested, "b": [nested]}
    assert not ran.exists()
    mlp = forged(
        saved, tmp_path, architecture="probes.architectures.mlp.MLPProbe", arguments={"activation": "os.abort"}
    )
    with pytest.raises(ValueError, match=r"no activation function 'os\.abort'"):
        load_probes(mlp)


@pytest.mark.parametrize(
    "content",
    [b"", b"junk", b"\xff" * 64, b"\x10\0\0\0\0\0\0\0{" + b" " * 40],
    ids=["empty", "text", "huge header", "cut"],
)
def test_a_file_that_is_no_safetensors_file_is_named(tmp_path, content):
    (tmp_path / "a.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.safetensors' is damaged, or no safetensors file"):
        load_probes(tmp_path / "a.safetensors")


@pytest.mark.parametrize("header", ["[", "[]", "{}", '{"format": "probes/1"}', "[" * 100_000])
def test_a_header_that_is_damaged_is_named(tmp_path, header):
    save_file({"a": torch.zeros(1)}, tmp_path / "a.safetensors", metadata={"probes": header})
    with pytest.raises(ValueError, match=r"a\.safetensors' (is damaged|holds no probes)"):
        load_probes(tmp_path / "a.safetensors")


def test_tensors_that_do_not_fit_their_header_are_named(saved, tmp_path):
    path = forged(saved, tmp_path, in_features=7)
    with pytest.raises(ValueError, match=r"forged\.safetensors' is damaged: its tensors do not fit"):
        load_probes(path)
