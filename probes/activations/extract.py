"""From texts to activations: one forward pass per text fills the store for all its layers, sites and poolings.

`extract` does all of it in one call; studies call its steps `open_stores` and `fill_stores`, and `row_ids` names rows.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from probes.activations.fill import fill_stores
from probes.activations.remote import is_url
from probes.activations.settings import ExtractionSettings
from probes.activations.store import ActivationStore
from probes.backbones import LayerSpec, ReadableBackbone
from probes.token_values import token_pooling
from probes.values import Activations, Reading


def extract(
    backbone: ReadableBackbone,
    texts: Sequence[str],
    *,
    layers: LayerSpec | None = None,
    pooling: str | None = None,
    site: str = "residual",
    max_length: int | None = None,
    cache_dir: str | Path | None = None,
) -> Activations:
    """Activations of texts, from Python and without a config.

    Args:
        backbone: A backbone of which one stack is chosen.
        texts: One text or more.
        layers: `all`, `final`, or a list; default the backbone's `layers`.
        pooling: One pooling; default `last` for decoders, `mean` for encoders.
        site: `residual`, `attention` or `mlp`.
        max_length: As in `ExtractionSettings`.
        cache_dir: Keep activations in this folder, or in the object store at this URL; default nowhere.

    Returns:
        Values of shape `(layers, texts, features)`, float32, in the order of the texts.

    Raises:
        ValueError: An unknown layer, pooling or site; a text without tokens; NaN or infinite activations.
    """
    remote = str(cache_dir) if cache_dir is not None and is_url(cache_dir) else None
    settings = ExtractionSettings(pooling=pooling, site=site, max_length=max_length, remote=remote)
    (reading,) = backbone.readings(pooling, site)
    names = backbone.layers(reading.stack, site=site, spec=layers)
    tokenized = backbone.tokenize(texts, max_length=max_length)
    with tempfile.TemporaryDirectory() as scratch:
        folder = scratch if cache_dir is None or remote is not None else cache_dir
        stores = open_stores(backbone, settings, Path(folder).expanduser() / "activations")
        fill_stores(backbone, tokenized, stores, settings, layers=layers)
        values = stores[reading].read(tokenized.text_ids, names)
    names_of_rows = row_ids("", "", tokenized.text_ids, tokenized.text_ids)
    return Activations(values, names, names_of_rows, reading, depth_of(backbone, reading))


def depth_of(backbone: ReadableBackbone, reading: Reading) -> int:
    """Number of blocks of a reading's stack, whether or not their layers are read."""
    names = backbone.layers(reading.stack, site=reading.site, spec="all")
    return max(layer for layer in names if isinstance(layer, int))


def open_stores(
    backbone: ReadableBackbone,
    settings: ExtractionSettings,
    root: Path,
    *,
    pooled: bool = True,
    tokens: str | None = None,
) -> dict[Reading, ActivationStore]:
    """The stores of a backbone's activations under these settings, by reading, the primary reading first.

    Args:
        backbone: Whose activations.
        settings: Poolings and sites.
        root: Folder of all stores.
        pooled: Whether one vector a text is read.
        tokens: Of what one vector each is read: `words`, `subwords`, `spans` or nothing.

    Raises:
        ValueError: As in `FrozenBackbone.readings`.
    """
    fingerprint = backbone.fingerprint()
    readings = backbone.readings(settings.pooling, settings.site) if pooled else ()
    if tokens is not None:
        readings += backbone.readings(token_pooling(tokens, settings.subword_pooling), settings.site)
    return {
        reading: ActivationStore(
            root,
            fingerprint=fingerprint,
            decoder_input=backbone.decoder_input,
            reading=reading,
            verify=settings.verify,
            remote=settings.remote,
            limit=None if settings.local_cache_gb is None else int(1e9 * settings.local_cache_gb),
        )
        for reading in readings
    }


def row_ids(task: str, split: str, texts: Sequence[str], labels: Sequence[object]) -> tuple[str, ...]:
    """A unique id for each row, 24 hexadecimal digits.

    An id depends on the row's task, split, text and label, and on how many equal rows precede it.

    Args:
        task: Name of the task.
        split: Name of the split.
        texts: What identifies the rows' texts: the texts themselves if several backbones with different tokenizers must
            give a row the same id, else hashes of their token ids.
        labels: The rows' labels.

    >>> a, b = row_ids("sst2", "test", ["17", "17"], [0, 0])
    >>> a != b and (a, b) == row_ids("sst2", "test", ["17", "17"], [0, 0])
    True
    """
    seen: Counter[tuple[str, object]] = Counter()
    ids = []
    for text, label in zip(texts, labels, strict=True):
        occurrence = seen[text, label]
        seen[text, label] += 1
        content = f"{task}\0{split}\0{text}\0{label}\0{occurrence}"
        ids.append(hashlib.blake2b(content.encode(), digest_size=12).hexdigest())
    return tuple(ids)
