"""From texts to activations: one forward pass per text fills the store for all its layers, sites and poolings.

`extract` does all of it in one call; studies call its steps `open_stores` and `fill_stores`, and `row_ids` names rows.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from probes.activations.batches import next_shard, token_budget
from probes.activations.claims import Claims
from probes.activations.passes import ForwardPasses, pass_progress
from probes.activations.store import ActivationStore
from probes.backbones import LayerSpec, ReadableBackbone, TokenizedTexts
from probes.kept_files import Verify, check_cache_settings, check_writable
from probes.locks import SECONDS_BETWEEN_LOOKS, Patience, process_lock
from probes.values import Activations, Layer, Reading

_log = logging.getLogger(__name__)

Stores = Mapping[Reading, ActivationStore]
"""One store for each reading, all of one backbone."""


@dataclass(frozen=True, kw_only=True)
class ExtractionSettings:
    """How texts become activations.

    Attributes:
        pooling: `last`, `first`, `mean`, `max` or several; default `last` for decoders, `mean` for encoders.
        site: `residual`, `attention`, `mlp` or several.
        max_length: Number of tokens to which texts are truncated on the left; default the backbone's longest input.
        tokens_per_batch: Most tokens of one forward pass, padding included. `auto` is 1,024 on a CPU, and on a CUDA GPU
            the largest power of two up to 65,536 that fits into its free memory. It is halved whenever a pass runs out
            of GPU memory all the same.
        texts_per_shard: Most texts in one file of the store, and most that a killed run loses. A file ends earlier
            where its texts are long, at 64 tokens for each of so many texts.
        verify: Whether the values of a stored file are compared with their digest before they are used (`full`), or
            only its header and size (`quick`).
        lock_timeout: Seconds to wait for another run that computes the last of the texts and writes none; `None` waits
            for ever.

    Raises:
        TypeError: A number is not an integer.
        ValueError: A number is below 1, or `verify` is neither `full` nor `quick`.
    """

    pooling: str | Sequence[str] | None = None
    site: str | Sequence[str] = "residual"
    max_length: int | None = None
    tokens_per_batch: int | Literal["auto"] = "auto"
    texts_per_shard: int = 512
    verify: Verify = "full"
    lock_timeout: float | None = 3600.0

    def __post_init__(self) -> None:
        for key in ("max_length", "tokens_per_batch", "texts_per_shard"):
            value = getattr(self, key)
            if value is None or (key == "tokens_per_batch" and value == "auto"):
                continue
            if not isinstance(value, int) or isinstance(value, bool):
                expected = "`auto` or an integer" if key == "tokens_per_batch" else "an integer"
                raise TypeError(f"`extraction.{key}` must be {expected}; got {value!r}.")
            if value < 1:
                raise ValueError(f"`extraction.{key}` must be at least 1; got {value}.")
        check_cache_settings(self.verify, self.lock_timeout)


@dataclass(frozen=True)
class PassReport:
    """What an extraction had to compute.

    Attributes:
        texts: Number of different texts in total.
        texts_computed: Number of texts that were not in the stores.
        tokens_computed: Number of tokens of these texts, without padding.
        forward_passes: Number of forward passes.
        seconds: Wall-clock time, reading the stores' indices included.
    """

    texts: int
    texts_computed: int
    tokens_computed: int
    forward_passes: int
    seconds: float


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
        cache_dir: Keep activations in this folder; default nowhere.

    Returns:
        Values of shape `(layers, texts, features)`, float32, in the order of the texts.

    Raises:
        ValueError: An unknown layer, pooling or site; a text without tokens; NaN or infinite activations.
    """
    settings = ExtractionSettings(pooling=pooling, site=site, max_length=max_length)
    (reading,) = backbone.readings(pooling, site)
    names = backbone.layers(reading.stack, site=site, spec=layers)
    tokenized = backbone.tokenize(texts, max_length=max_length)
    with tempfile.TemporaryDirectory() as scratch:
        stores = open_stores(backbone, settings, Path(cache_dir or scratch).expanduser() / "activations")
        fill_stores(backbone, tokenized, stores, settings, layers=layers)
        values = stores[reading].read(tokenized.text_ids, names)
    return Activations(values, names, row_ids("", "", tokenized.text_ids, tokenized.text_ids), reading)


def open_stores(backbone: ReadableBackbone, settings: ExtractionSettings, root: Path) -> dict[Reading, ActivationStore]:
    """The stores of a backbone's activations under these settings, by reading, the primary reading first."""
    fingerprint = backbone.fingerprint()
    readings = backbone.readings(settings.pooling, settings.site)
    return {
        reading: ActivationStore(
            root,
            fingerprint=fingerprint,
            decoder_input=backbone.decoder_input,
            reading=reading,
            verify=settings.verify,
        )
        for reading in readings
    }


def fill_stores(
    backbone: ReadableBackbone,
    texts: TokenizedTexts,
    stores: Stores,
    settings: ExtractionSettings,
    *,
    layers: LayerSpec | None = None,
) -> PassReport:
    """Run the backbone on every text that some store lacks, and add its activations to these stores.

    Stored texts are verified first; those of a damaged file are lacking. A run that lacks nothing waits for nobody and
    writes nothing. Runs that lack texts of one backbone share the work, whatever their settings: each claims as many
    texts as fill a shard, the longest that nobody has claimed, and computes them. If all want the same texts, the
    shards are the same whatever the number of runs, and whichever of them die.

    Args:
        backbone: The backbone that is run.
        texts: Tokenized texts; texts of equal ids are run once.
        stores: The result of `open_stores`.
        settings: Sizes of batches and shards.
        layers: Which layers; default the backbone's `layers`.

    Raises:
        OSError: There is too little free disk space, or texts are missing in a cache that cannot be written.
        TimeoutError: Another run computes texts that are wanted, and writes nothing.
        ValueError: An activation is NaN or infinite.
        MemoryError: A single text does not fit into a GPU's memory.
    """
    start = time.monotonic()
    ids = dict(zip(texts.text_ids, texts.ids, strict=True))
    wanted = {reading: backbone.layers(reading.stack, site=reading.site, spec=layers) for reading in stores}
    computed: list[str] = []
    passes = 0
    lacking = _lacking(stores, ids, wanted)
    if missing := set().union(*lacking.values()):
        root = next(iter(stores.values())).folder.parent
        check_writable(root, f"and some activations of '{backbone.name}' are missing or damaged there")
        root.mkdir(parents=True, exist_ok=True)
        vectors = {reading: len(lacks) * len(wanted[reading]) for reading, lacks in lacking.items()}
        _check_disk(backbone, vectors, root)
        longest, limit = max(len(ids[text]) for text in missing), backbone.tokenizer.max_length
        forward = ForwardPasses(backbone, layers, token_budget(backbone, settings.tokens_per_batch, longest=longest))
        shards = _claimed_shards(backbone, stores, ids, wanted, settings, limit=limit)
        with pass_progress(texts=len(missing), tokens=sum(len(ids[text]) for text in missing)) as progress:
            for texts_of_shard, readings in shards:
                batches = list(forward.over([(text, ids[text]) for text in texts_of_shard], readings, progress))
                names = [name for names_of_batch, _ in batches for name in names_of_batch]
                for reading in readings:
                    values = torch.cat([values[reading] for _, values in batches])
                    stores[reading].add(names, wanted[reading], values)
                computed += names
        passes = forward.done
    tokens = sum(len(ids[text]) for text in computed)
    return PassReport(len(ids), len(computed), tokens, passes, time.monotonic() - start)


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


def _lacking(
    stores: Stores, texts: Iterable[str], wanted: Mapping[Reading, tuple[Layer, ...]]
) -> dict[Reading, set[str]]:
    """The texts that each store lacks at the wanted layers, after those that it has were verified."""
    names, lacking = list(texts), {}
    for reading, store in stores.items():
        store.refresh()
        store.verify(names, wanted[reading])
        lacking[reading] = set(store.missing(names, wanted[reading]))
    return lacking


def _claimed_shards(
    backbone: ReadableBackbone,
    stores: Stores,
    ids: Mapping[str, np.ndarray],
    wanted: Mapping[Reading, tuple[Layer, ...]],
    settings: ExtractionSettings,
    *,
    limit: int,
) -> Iterator[tuple[list[str], list[Reading]]]:
    """Claim one shard after another until the stores lack nothing: its texts, and the readings that lack some of them.

    A shard is claimed while the caller computes it, and must be stored when the next one is asked for.

    Raises:
        TimeoutError: Another run that computes the last texts wrote nothing for `settings.lock_timeout` seconds.
    """
    store = next(iter(stores.values()))
    what = f"the activations of '{backbone.name}'"
    claims = Claims(store.lock_file)
    timeout, is_first = settings.lock_timeout, True

    def newest_file() -> list[int]:
        return [store.folder.stat().st_mtime_ns for store in stores.values() if store.folder.exists()]

    patience = Patience(what, timeout, newest_file)
    while True:
        with process_lock(store.lock_file, what=what, timeout=timeout, progress=newest_file):
            others = claims.of_others()
            if is_first and not others:
                for store in stores.values():
                    store.remove_litter()
            is_first = False
            lacking = _lacking(stores, ids, wanted)
            missing = set().union(*lacking.values())
            if not missing:
                return
            free = missing.difference(*others.values())
            names = next_shard(
                {text: len(ids[text]) for text in free}, texts_per_shard=settings.texts_per_shard, limit=limit
            )
            claim = claims.claim(names) if names else None
        if claim is None:
            patience.look(lambda: " and ".join(who for who, texts in others.items() if texts & missing))  # noqa: B023
            time.sleep(SECONDS_BETWEEN_LOOKS)
            continue
        with claims.beating(claim):
            yield names, [reading for reading, lacks in lacking.items() if lacks.intersection(names)]
        patience = Patience(what, timeout, newest_file)


def _check_disk(backbone: ReadableBackbone, vectors: Mapping[Reading, int], root: Path) -> None:
    """Raise unless so many vectors of each reading fit on the disk."""
    itemsize = {r: torch.float32.itemsize if r.pooling == "mean" else backbone.dtype.itemsize for r in vectors}
    needed = sum(count * backbone.hidden_size * itemsize[reading] for reading, count in vectors.items())
    free = shutil.disk_usage(root).free
    _log.info("Activations to compute: %.2f GB on disk, %.0f GB free at '%s'.", needed / 1e9, free / 1e9, root)
    if needed > 0.95 * free:
        raise OSError(
            f"The activations need {needed / 1e9:.2f} GB and '{root}' has {free / 1e9:.2f} GB free. Set "
            "`paths.cache_dir` to a larger disk, or fewer `backbone.layers`, poolings or `suite.max_rows`."
        )
