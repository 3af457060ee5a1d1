"""A check of a backbone on a few of a run's own texts, before all of them are read.

On loading, a backbone's hooks are compared with its hidden states on three tokens. This check uses real texts and the
passes of the extraction itself: a text alone against the same text in a padded batch, and what the hooks pool against
the same pooling of the hidden states that the model reports.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from probes.activations.store import ActivationStore, names_under
from probes.backbones import ReadableBackbone, TokenizedTexts, pad_right
from probes.kept_files import read_sealed_json, write_sealed_json
from probes.values import Layer, Reading

_TOLERANCE_SINGLE, _TOLERANCE_HALF = 1e-3, 0.1
"""Largest relative error in float32 and float64, and in half precision, where rounding adds up over the blocks."""

_MAX_TEXTS, _MAX_TOKENS = 4, 512

Errors = Mapping[str, Mapping[str, float]]
"""Reading → layer → the largest relative error over the texts, |x − y| / |y| in the Euclidean norm."""


@dataclass(frozen=True)
class Certificate:
    """How well a backbone's passes agreed on a few texts.

    Attributes:
        texts: Number of texts.
        tolerance: The largest relative error that was allowed.
        in_a_batch: Errors of texts in one padded batch against the same texts alone.
        against_hidden_states: Errors of the hooks against the hidden states that the model reports; readings of
            sublayers and a last layer before a final norm are absent, since models do not report them.
    """

    texts: int
    tolerance: float
    in_a_batch: Errors
    against_hidden_states: Errors


def certified(
    backbone: ReadableBackbone, texts: TokenizedTexts, stores: Mapping[Reading, ActivationStore]
) -> Certificate | None:
    """Check a backbone on some texts that the stores lack, and keep the result beside them.

    If they lack none, the backbone is not run, and the result that was kept last is returned; `None` if there is none.

    Raises:
        ValueError: An error is beyond the tolerance.
    """
    lacking: set[str] = set()
    for reading, store in stores.items():
        lacking.update(store.missing(names_under(reading, texts), backbone.layers(reading.stack, site=reading.site)))
    first = next(iter(stores.values()))
    file, key = first.folder / "certificate.json", first.folder.name
    if not lacking:
        kept = read_sealed_json(file, key=key, remedy="It is written again when texts are computed.")
        return None if kept is None else Certificate(**kept)
    number = {names: i for i, names in enumerate(zip(texts.text_ids, texts.span_ids or texts.text_ids, strict=True))}
    computed = [i for names, i in number.items() if lacking.intersection(names)]
    spans = [texts.spans[i] for i in computed] if texts.spans else None
    certificate = certify(backbone, [texts.ids[i] for i in computed], tuple(stores), spans)
    with suppress(PermissionError):  # the extraction itself refuses a cache that cannot be written
        write_sealed_json(file, asdict(certificate), key=key)
    return certificate


def certify(
    backbone: ReadableBackbone,
    ids: Sequence[np.ndarray],
    readings: Sequence[Reading],
    spans: Sequence[np.ndarray] | None = None,
) -> Certificate:
    """Compare the passes of a backbone on at most four of these texts.

    Args:
        backbone: What is checked.
        ids: Token ids of each text; of those with at most 512 tokens, four that differ in length are used.
        readings: What is read of them.
        spans: The tokens of each text's words, for readings of words; every word counts as a text.

    Raises:
        ValueError: An error is beyond the tolerance, 0.001 in single and 0.1 in half precision.
    """
    places = _choose(ids)
    chosen = [ids[place] for place in places]
    words = None if spans is None else [spans[place] for place in places]
    inputs = pad_right(chosen, length=max(map(len, chosen)), pad_id=backbone.pad_id)
    alone_inputs = [pad_right([text], length=len(text), pad_id=backbone.pad_id) for text in chosen]
    together, *alone = backbone.run_together(
        [
            partial(backbone, *inputs, readings=readings, spans=words),
            *(
                partial(backbone, *of_text, readings=readings, spans=None if words is None else [words[i]])
                for i, of_text in enumerate(alone_inputs)
            ),
        ]
    )
    names = {r: backbone.layers(r.stack, site=r.site) for r in readings}
    in_a_batch = {
        str(r): _errors(names[r], together[r], torch.cat([each[r] for each in alone], dim=1)) for r in readings
    }
    against = {}
    for reading, states in backbone.reported(*inputs, readings=readings, spans=words).items():
        shared = [layer for layer in names[reading] if layer in states]
        if shared:
            rows = [names[reading].index(layer) for layer in shared]
            own = torch.stack([states[layer].to(backbone.device) for layer in shared])
            against[str(reading)] = _errors(shared, together[reading][rows], own)
    half = backbone.dtype.itemsize < 4
    certificate = Certificate(len(chosen), _TOLERANCE_HALF if half else _TOLERANCE_SINGLE, in_a_batch, against)
    _refuse(backbone, certificate)
    return certificate


def _choose(ids: Sequence[np.ndarray]) -> list[int]:
    """Up to four texts, by their positions, at even distances in the order of their lengths."""
    by_length = sorted(range(len(ids)), key=lambda i: len(ids[i]))
    short = [i for i in by_length if len(ids[i]) <= _MAX_TOKENS] or by_length[:1]
    places = np.linspace(0, len(short) - 1, min(_MAX_TEXTS, len(short))).round().astype(int)
    return [short[place] for place in places]


def _errors(layers: Sequence[Layer], values: Tensor, reference: Tensor) -> dict[str, float]:
    """The largest relative error of each layer; both tensors have the shape `(layers, texts, features)`."""
    difference = (values.double() - reference.double()).norm(dim=2)
    relative = difference / reference.double().norm(dim=2).clamp_min(torch.finfo(torch.float32).tiny)
    return dict(zip(map(str, layers), relative.amax(dim=1).tolist(), strict=True))


def _refuse(backbone: ReadableBackbone, certificate: Certificate) -> None:
    """Raise if an error is beyond the tolerance; NaN is left to the extraction, which names the layers and texts."""
    reasons = {
        "differ between a text alone and the same text in a padded batch, so they would depend on other texts": (
            certificate.in_a_batch
        ),
        "that the hooks see differ from the hidden states that the model reports": certificate.against_hidden_states,
    }
    for reason, errors in reasons.items():
        worst = [(error, r, layer) for r, of in errors.items() for layer, error in of.items() if error == error]
        if worst and max(worst)[0] > certificate.tolerance:
            error, reading, layer = max(worst)
            raise ValueError(
                f"Activations of backbone '{backbone.name}' {reason}: on {certificate.texts} texts of this run by up "
                f"to {error:.2g} of their norm (layer {layer}, {reading}); {certificate.tolerance:g} is allowed. "
                "Rounding explains less: set `backbone.dtype=float32`, or choose another `backbone`."
            )
