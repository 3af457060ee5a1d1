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
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from probes.activations.batches import token_budget
from probes.activations.passes import ForwardPasses, vectors_of
from probes.activations.store import ActivationStore, names_under
from probes.backbones import LayerSpec, ReadableBackbone, TokenizedTexts
from probes.kept_files import Verify, check_cache_settings, check_writable
from probes.locks import process_lock
from probes.token_values import SUBWORD_POOLINGS, TOKEN_MODES, token_mode, token_pooling
from probes.values import Activations, Layer, Reading

_log = logging.getLogger(__name__)

Stores = Mapping[Reading, ActivationStore]
"""One store for each reading, all of one backbone."""

_WORDS_PER_SHARD = 4096
"""Words of a shard after which no further text is added to it; 0.3 GB for 31 layers of 576 features in float32."""


@dataclass(frozen=True, kw_only=True)
class ExtractionSettings:
    """How texts become activations.

    Attributes:
        pooling: `last`, `first`, `mean`, `max` or several; default `last` for decoders, `mean` for encoders.
        site: `residual`, `attention`, `mlp` or several.
        tokens: What each text keeps a vector for each of, besides its pooled vectors: its `words`, its tokens
            (`subwords`), or the `spans` that its task names; default `words` for tasks of words, nothing for others.
        subword_pooling: Which vector a word or span has: that of its `last` or `first` token, or their `mean`.
        max_length: Number of tokens to which texts are truncated on the left; default the backbone's longest input.
        tokens_per_batch: Most tokens of one forward pass, padding included. `auto` is 1,024 on a CPU, and on a CUDA GPU
            the largest power of two up to 65,536 that fits into its free memory. It is halved whenever a pass runs out
            of GPU memory all the same.
        texts_per_shard: Number of texts in one file of the store, at most so many are lost when a run is killed.
        verify: Whether the values of a stored file are compared with their digest before they are used (`full`), or
            only its header and size (`quick`).
        lock_timeout: Seconds to wait for another run that computes activations of the same backbone and writes none;
            `None` waits for ever.

    Raises:
        TypeError: A number is not an integer.
        ValueError: A number is below 1, `verify` is neither `full` nor `quick`, or there is no such kind of tokens or
            pooling of sub-words.
    """

    pooling: str | Sequence[str] | None = None
    site: str | Sequence[str] = "residual"
    tokens: str | None = None
    subword_pooling: str = "last"
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
        for key, choices in (("tokens", (None, *TOKEN_MODES)), ("subword_pooling", SUBWORD_POOLINGS)):
            if getattr(self, key) not in choices:
                listed = ", ".join("null" if choice is None else choice for choice in choices)
                raise ValueError(f"`extraction.{key}` must be one of {listed}; got {getattr(self, key)!r}.")
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
    writes nothing. Of several runs that lack texts of one backbone, whatever their settings, one computes at a time.

    Args:
        backbone: The backbone that is run.
        texts: Tokenized texts; texts of equal ids are run once.
        stores: The result of `open_stores`.
        settings: Sizes of batches and shards.
        layers: Which layers; default the backbone's `layers`.

    Raises:
        OSError: There is too little free disk space, or texts are missing in a cache that cannot be written.
        TimeoutError: Another run of this backbone holds its lock and writes nothing.
        ValueError: An activation is NaN or infinite.
        MemoryError: A single text does not fit into a GPU's memory.
    """
    start = time.monotonic()
    # Texts of equal tokens may have other words, so a text that is read word by word is named by its words, too.
    names = texts.span_ids or texts.text_ids
    ids, spans = dict(zip(names, texts.ids, strict=True)), dict(zip(names, texts.spans, strict=False))
    stored_as = {reading: dict(zip(names, names_under(reading, texts), strict=True)) for reading in stores}
    wanted = {reading: backbone.layers(reading.stack, site=reading.site, spec=layers) for reading in stores}
    passes, missing = 0, []
    if any(_lacking(stores, stored_as, wanted).values()):
        with _backbone_lock(backbone, stores, settings.lock_timeout):
            lacking = _lacking(stores, stored_as, wanted)  # another run may have computed some meanwhile
            missing = list(dict.fromkeys(text for texts_of_reading in lacking.values() for text in texts_of_reading))
            incomplete = {reading: stores[reading] for reading, lacks in lacking.items() if lacks}
            if missing:
                vectors = {r: {t: vectors_of(r, ids[t], spans.get(t)) for t in missing} for r in incomplete}
                _check_disk(backbone, {r: sum(vectors[r].values()) * len(wanted[r]) for r in incomplete}, stores)
                longest = max(len(ids[text]) for text in missing)
                budget = token_budget(backbone, settings.tokens_per_batch, longest=longest)
                forward = ForwardPasses(backbone, list(incomplete), layers, budget, spans or None)
                computed = forward.over([(text, ids[text]) for text in missing])
                shards = _Shards(incomplete, wanted, stored_as, vectors, settings.texts_per_shard)
                shards.write(computed)
                passes = forward.done
    tokens = sum(len(ids[text]) for text in missing)
    return PassReport(len(ids), len(missing), tokens, passes, time.monotonic() - start)


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
    stores: Stores, stored_as: Mapping[Reading, Mapping[str, str]], wanted: Mapping[Reading, tuple[Layer, ...]]
) -> dict[Reading, list[str]]:
    """The texts that each store lacks at the wanted layers, after those that it has were verified."""
    lacking = {}
    for reading, store in stores.items():
        names = stored_as[reading]
        store.refresh()
        store.verify(names.values(), wanted[reading])
        missing = set(store.missing(list(names.values()), wanted[reading]))
        lacking[reading] = [text for text, name in names.items() if name in missing]
    return lacking


@contextmanager
def _backbone_lock(backbone: ReadableBackbone, stores: Stores, timeout: float | None) -> Iterator[None]:
    """Within the context, no other run computes activations of this backbone, under whatever settings.

    Raises:
        PermissionError: The stores cannot be written.
        TimeoutError: The holder of the lock wrote nothing for `timeout` seconds.
    """
    lock_file = next(iter(stores.values())).lock_file
    check_writable(lock_file.parent, f"and some activations of '{backbone.name}' are missing or damaged there")
    folders = [store.folder for store in stores.values()]

    def newest_file() -> list[int]:
        return [folder.stat().st_mtime_ns for folder in folders if folder.exists()]

    what = f"the activations of '{backbone.name}'"
    with process_lock(lock_file, what=what, timeout=timeout, progress=newest_file) as held:
        if held:
            for store in stores.values():
                store.remove_litter()
        yield


def _check_disk(backbone: ReadableBackbone, vectors: Mapping[Reading, int], stores: Stores) -> None:
    """Raise unless so many vectors of each reading fit on the disk."""
    root = next(iter(stores.values())).folder.parent
    itemsize = {r: torch.float32.itemsize if r.pooling.endswith("mean") else backbone.dtype.itemsize for r in vectors}
    needed = sum(count * backbone.hidden_size * itemsize[reading] for reading, count in vectors.items())
    free = shutil.disk_usage(root).free
    _log.info("Activations to compute: %.2f GB on disk, %.0f GB free at '%s'.", needed / 1e9, free / 1e9, root)
    if needed > 0.95 * free:
        raise OSError(
            f"The activations need {needed / 1e9:.2f} GB and '{root}' has {free / 1e9:.2f} GB free. Set "
            "`paths.cache_dir` to a larger disk, or fewer `backbone.layers`, poolings or `suite.max_rows`."
        )


class _Shards:
    """Writes shards of `texts_per_shard` texts, whatever the sizes of the batches, or fewer if these have many words.

    Args:
        stores: Where each reading goes.
        layers: Of each reading.
        stored_as: Text → its name in the store, for each reading.
        vectors: Text → its number of vectors, for each reading.
        texts_per_shard: Most texts of a shard.
    """

    def __init__(
        self,
        stores: Stores,
        layers: Mapping[Reading, tuple[Layer, ...]],
        stored_as: Mapping[Reading, Mapping[str, str]],
        vectors: Mapping[Reading, Mapping[str, int]],
        texts_per_shard: int,
    ) -> None:
        self._stores, self._layers, self._stored_as, self._vectors = stores, layers, stored_as, vectors
        self._texts_per_shard = texts_per_shard
        self._names: list[str] = []
        self._pending: dict[Reading, list[Tensor]] = {reading: [] for reading in stores}  # (vectors, layers, features)
        self._of_words = [reading for reading in stores if token_mode(reading) is not None]

    def write(self, computed: Iterator[tuple[list[str], dict[Reading, Tensor]]]) -> None:
        """Write all batches."""
        words = 0
        for names, values in computed:
            ends = {r: np.cumsum([0, *(self._vectors[r][name] for name in names)]) for r in self._stores}
            start = 0
            for end, name in enumerate(names, start=1):
                words += max((self._vectors[r][name] for r in self._of_words), default=0)
                full = len(self._names) + end - start == self._texts_per_shard or words >= _WORDS_PER_SHARD
                if not full and end < len(names):
                    continue
                for reading in self._stores:
                    self._pending[reading].append(values[reading][ends[reading][start] : ends[reading][end]])
                self._names += names[start:end]
                start = end
                if full:
                    self._flush()
                    words = 0
        if self._names:
            self._flush()

    def _flush(self) -> None:
        for reading, store in self._stores.items():
            offsets: list[int] = []
            if reading in self._of_words:
                offsets = np.cumsum([0, *(self._vectors[reading][name] for name in self._names)]).tolist()
            names = [self._stored_as[reading][name] for name in self._names]
            store.add(names, self._layers[reading], torch.cat(self._pending[reading]), offsets=offsets)
            self._pending[reading].clear()
        self._names.clear()
