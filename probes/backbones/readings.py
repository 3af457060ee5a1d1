"""Which readings a user means: every combination of stacks, sites and poolings."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from probes.backbones.sites import sublayer
from probes.backbones.stacks import Stack
from probes.values import POOLINGS, SITES, Reading


def combine_readings(
    stacks: Iterable[Stack], poolings: str | Sequence[str] | None, sites: str | Sequence[str]
) -> tuple[Reading, ...]:
    """Name the readings of some stacks, each stack's together; arguments as in `FrozenBackbone.readings`.

    Raises:
        ValueError: An unknown pooling or site, or a site no module of a stack yields.
    """
    sites = _one_of(sites, SITES, "extraction.site")
    readings = []
    for stack in stacks:
        own = _one_of(_default(stack) if poolings is None else poolings, POOLINGS, "extraction.pooling")
        for site in sites:
            if site != "residual":
                sublayer(stack.blocks[0], site=site, model_type=stack.config.model_type)
            readings += [Reading(stack.name, site, pooling) for pooling in own]
    return tuple(readings)


def _default(stack: Stack) -> str:
    return "last" if stack.name == "decoder" else "mean"


def _one_of(given: str | Sequence[str], known: Sequence[str], key: str) -> tuple[str, ...]:
    chosen = (given,) if isinstance(given, str) else tuple(dict.fromkeys(given))
    unknown = [name for name in chosen if name not in known]
    if unknown or not chosen:
        raise ValueError(f"Unknown {key.split('.')[-1]} {unknown}. There are {list(known)}. Set `{key}` among these.")
    return chosen
