"""Which layers a user means: `all`, `final`, one number or a list of them."""

from __future__ import annotations

from collections.abc import Sequence

from probes.values import Layer

LayerSpec = str | int | Sequence[Layer]


def resolve_layers(spec: LayerSpec, *, num_layers: int, site: str = "residual", name: str = "") -> tuple[Layer, ...]:
    """Name the layers a specification means, in ascending order with `"final"` last.

    Args:
        spec: `"all"`, `"final"`, a number, or a list of numbers and `"final"`.
        num_layers: Number of blocks L.
        site: `residual` has layers 0…L and `final`; `attention` and `mlp` have 1…L.
        name: The backbone's name, for errors.

    Raises:
        ValueError: A layer does not exist, or none is named.

    >>> resolve_layers("all", num_layers=3)
    (0, 1, 2, 3)
    >>> resolve_layers(["final", 2], num_layers=3)
    (2, 'final')
    >>> resolve_layers("all", num_layers=3, site="mlp")
    (1, 2, 3)
    """
    first = 0 if site == "residual" else 1
    if spec == "all":
        return tuple(range(first, num_layers + 1))
    wanted: Sequence[Layer] = [spec] if isinstance(spec, (str, int)) else list(spec)  # pyright: ignore[reportAssignmentType]
    if not wanted:
        raise ValueError("No layer is named. Set `backbone.layers` to `all`, `final` or a list such as [0, 8].")
    for layer in wanted:
        _check(layer, first=first, num_layers=num_layers, site=site, name=name)
    return tuple(sorted(set(wanted), key=lambda layer: num_layers + 1 if layer == "final" else int(layer)))


def _check(layer: object, *, first: int, num_layers: int, site: str, name: str) -> None:
    if layer == "final" and site == "residual":
        return
    if isinstance(layer, int) and not isinstance(layer, bool) and first <= layer <= num_layers:
        return
    at = "" if site == "residual" else f" at site '{site}'"
    zero = " (embeddings)" if first == 0 else ""
    final = ", and 'final'" if site == "residual" else ""
    raise ValueError(
        f"Backbone '{name}' has no layer {layer!r}{at}. It has layers {first}{zero} to {num_layers}{final}. "
        "Set `backbone.layers` to numbers among these."
    )
