"""Extraction uses of a backbone what `ReadableBackbone` declares, which `FrozenBackbone` has."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from typing_extensions import get_protocol_members

from probes.activations import extract
from probes.backbones import FrozenBackbone, ReadableBackbone, tiny_backbone

MEMBERS = sorted(get_protocol_members(ReadableBackbone))
METHODS = ["fingerprint", "layers", "readings", "tokenize"]


class OnlyTheProtocol:
    """A backbone from which nothing can be had but the members of the protocol."""

    def __init__(self, backbone: FrozenBackbone) -> None:
        self._backbone = backbone

    def __getattr__(self, name: str) -> Any:
        if name not in MEMBERS:
            raise AttributeError(f"'{name}' is not a member of ReadableBackbone")
        return getattr(self._backbone, name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._backbone(*args, **kwargs)


def parameters_of(function: Any) -> list[tuple[str, Any, Any]]:
    return [(p.name, p.kind, p.default) for p in inspect.signature(function).parameters.values()]


@pytest.mark.parametrize("member", MEMBERS)
def test_a_frozen_backbone_has_every_member_of_the_protocol(member: str):
    backbone: ReadableBackbone = tiny_backbone()
    assert hasattr(backbone, member)


@pytest.mark.parametrize("method", METHODS)
def test_the_methods_of_a_frozen_backbone_have_the_signatures_of_the_protocol(method: str):
    assert parameters_of(getattr(FrozenBackbone, method)) == parameters_of(getattr(ReadableBackbone, method))


def test_calling_a_frozen_backbone_has_the_signature_of_the_protocol():
    assert parameters_of(FrozenBackbone.forward) == parameters_of(ReadableBackbone.__call__)


def test_extraction_needs_nothing_but_the_protocol(tmp_path):
    texts = ["one", "a longer text"]
    restricted: Any = OnlyTheProtocol(tiny_backbone())
    with pytest.raises(AttributeError, match="not a member"):
        _ = restricted.stacks  # the control
    assert torch.equal(extract(restricted, texts).values, extract(tiny_backbone(), texts).values)
