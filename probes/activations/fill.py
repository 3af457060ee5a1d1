"""What the stores lack is computed: shard by shard, shared among all processes that want texts of one backbone."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from probes.activations.batches import next_shard, token_budget
from probes.activations.claims import Claims
from probes.activations.passes import ForwardPasses, pass_progress, vectors_of
from probes.activations.settings import ExtractionSettings
from probes.activations.store import ActivationStore, names_under
from probes.activations.workers import Extraction, helped
from probes.backbones import LayerSpec, ReadableBackbone, TokenizedTexts
from probes.kept_files import check_writable
from probes.locks import Patience, process_lock
from probes.token_values import token_mode
from probes.values import Layer, Reading

_log = logging.getLogger(__name__)

Stores = Mapping[Reading, ActivationStore]
"""One store for each reading, all of one backbone."""

_TOKENS_OF_A_TEXT = 64
"""A shard of pooled vectors holds at most so many tokens for each text that it may hold: none takes very long."""

_TOKENS_OF_WORDS = 4096
"""A shard with a vector for each word holds so many tokens: 0.3 GB for 31 layers of 576 features in float32."""


@dataclass(frozen=True)
class PassReport:
    """What an extraction had to compute.

    Attributes:
        texts: Number of different texts in total.
        texts_computed: Number of texts that this run computed, its workers included.
        tokens_computed: Number of tokens of these texts, without padding.
        forward_passes: Number of forward passes, likewise.
        seconds: Wall-clock time, reading the stores' indices included.
    """

    texts: int
    texts_computed: int
    tokens_computed: int
    forward_passes: int
    seconds: float


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
    shards are the same whatever the number of runs, and whichever of them die. `settings.workers` starts further
    processes of this machine for the time of the call.

    Args:
        backbone: The backbone that is run.
        texts: Tokenized texts; texts of equal ids are run once.
        stores: The result of `open_stores`.
        settings: Sizes of batches and shards.
        layers: Which layers; default the backbone's `layers`.

    Raises:
        OSError: There is too little free disk space, or texts are missing in a cache that cannot be written.
        TimeoutError: Another run computes texts that are wanted, and writes nothing.
        ValueError: An activation is NaN or infinite; there are fewer GPUs than `settings.workers`.
        MemoryError: A single text does not fit into a GPU's memory.
    """
    start = time.monotonic()
    # Texts of equal tokens may have other words, so a text that is read word by word is named by its words, too.
    names = texts.span_ids or texts.text_ids
    ids, spans = dict(zip(names, texts.ids, strict=True)), dict(zip(names, texts.spans, strict=False))
    wanted = _Wanted(
        stores,
        {reading: dict(zip(names, names_under(reading, texts), strict=True)) for reading in stores},
        {reading: backbone.layers(reading.stack, site=reading.site, spec=layers) for reading in stores},
    )
    computed: list[str] = []
    passes, reports = 0, []
    for store in stores.values():
        store.push()
    lacking = wanted.lacking()
    if missing := set().union(*lacking.values()):
        vectors = {r: sum(vectors_of(r, ids[text], spans.get(text)) for text in lacks) for r, lacks in lacking.items()}
        _check_disk(backbone, {r: number * len(wanted.layers[r]) for r, number in vectors.items()}, wanted.root)
        budget = token_budget(backbone, settings.tokens_per_batch, longest=max(len(ids[text]) for text in missing))
        forward = ForwardPasses(backbone, layers, budget, spans or None)
        tokens_of_all = sum(len(ids[text]) for text in missing)
        helpers = helped(backbone, Extraction(texts, stores, settings, layers))
        with helpers as others, pass_progress(texts=len(missing), tokens=tokens_of_all) as progress:
            for shard, readings, left in _claimed_shards(backbone, wanted, ids, settings):
                others.check()
                progress.leave(texts=len(left), tokens=sum(len(ids[text]) for text in left))
                batches = list(forward.over([(text, ids[text]) for text in shard], readings, progress))
                in_order = [text for texts_of_batch, _ in batches for text in texts_of_batch]
                for reading in readings:
                    values = torch.cat([values[reading] for _, values in batches])  # (texts or words, layers, features)
                    sizes = [vectors_of(reading, ids[text], spans.get(text)) for text in in_order]
                    wanted.store(reading, in_order, values, sizes)
                computed += in_order
            reports = others.reports()
        passes = forward.done
    tokens = sum(len(ids[text]) for text in computed)
    own = PassReport(len(ids), len(computed), tokens, passes, time.monotonic() - start)
    return _together(own, reports)


def _together(own: PassReport, others: Sequence[PassReport]) -> PassReport:
    """What several processes computed, in the time of one of them."""
    names = ("texts_computed", "tokens_computed", "forward_passes")
    return replace(own, **{name: sum(getattr(report, name) for report in (own, *others)) for name in names})


@dataclass(frozen=True)
class _Wanted:
    """What one run wants of some stores.

    Attributes:
        stores: One for each reading.
        stored_as: Text → its name in the store, for each reading.
        layers: Of each reading.
    """

    stores: Stores
    stored_as: Mapping[Reading, Mapping[str, str]]
    layers: Mapping[Reading, tuple[Layer, ...]]

    @property
    def root(self) -> Path:
        """The folder of all stores."""
        return next(iter(self.stores.values())).folder.parent

    @property
    def lock_file(self) -> Path:
        """The lock of the backbone."""
        return next(iter(self.stores.values())).lock_file

    def claims(self) -> Claims:
        """The claims on texts of the backbone."""
        return next(iter(self.stores.values())).claims()

    def lacking(self) -> dict[Reading, set[str]]:
        """The texts that each store lacks, after those that it has were verified."""
        lacking = {}
        for reading, store in self.stores.items():
            names = self.stored_as[reading]
            store.refresh()
            store.verify(names.values(), self.layers[reading])
            missing = set(store.missing(list(names.values()), self.layers[reading]))
            lacking[reading] = {text for text, name in names.items() if name in missing}
        return lacking

    def store(self, reading: Reading, texts: Sequence[str], values: Tensor, sizes: Sequence[int]) -> None:
        """Write a shard: the vectors of some texts, of which each has so many."""
        offsets = [0, *accumulate(sizes)] if token_mode(reading) is not None else ()
        names = [self.stored_as[reading][text] for text in texts]
        self.stores[reading].add(names, self.layers[reading], values, offsets=offsets)

    def newest_files(self) -> list[int]:
        """When a file was last added to each store, and how many shards it knows: this changes while others get on."""
        times = [store.folder.stat().st_mtime_ns for store in self.stores.values() if store.folder.exists()]
        return [*times, *(store.num_shards for store in self.stores.values())]


def _claimed_shards(
    backbone: ReadableBackbone, wanted: _Wanted, ids: Mapping[str, np.ndarray], settings: ExtractionSettings
) -> Iterator[tuple[list[str], list[Reading], set[str]]]:
    """Claim one shard after another until the stores lack nothing.

    Yields its texts, the readings that lack some of them, and the texts that are missing, those of the shard included.

    A shard is claimed while the caller computes it, and must be stored when the next one is asked for.

    Raises:
        TimeoutError: Another run that computes the last texts wrote nothing for `settings.lock_timeout` seconds.
    """
    what, limit, timeout = f"the activations of '{backbone.name}'", backbone.tokenizer.max_length, settings.lock_timeout
    most_tokens = _TOKENS_OF_A_TEXT * settings.texts_per_shard
    if any(token_mode(reading) is not None for reading in wanted.stores):
        most_tokens = min(most_tokens, _TOKENS_OF_WORDS)
    claims, is_first = wanted.claims(), True
    patience = Patience(what, timeout, wanted.newest_files)
    while True:
        with process_lock(wanted.lock_file, what=what, timeout=timeout, progress=wanted.newest_files):
            others = claims.of_others()  # before the stores are looked at: what was released is stored
            if is_first:
                claims.remove_litter()
                for store in wanted.stores.values() if not others else ():
                    store.remove_litter()
            is_first = False
            lacking = wanted.lacking()
            missing = set().union(*lacking.values())
            if not missing:
                return
            lengths = {text: len(ids[text]) for text in missing.difference(*others.values())}
            texts = next_shard(lengths, most_texts=settings.texts_per_shard, most_tokens=most_tokens, limit=limit)
            claim = claims.claim(texts) if texts else None
        if claim is None and texts:
            continue  # another machine was faster
        if claim is None:
            busy = [who for who, claimed in others.items() if claimed & missing]
            patience.look(lambda busy=busy: " and ".join(busy))
            time.sleep(claims.seconds_between_looks)
            continue
        with claims.beating(claim):
            yield texts, [reading for reading, lacks in lacking.items() if lacks.intersection(texts)], missing
        patience = Patience(what, timeout, wanted.newest_files)


def _check_disk(backbone: ReadableBackbone, vectors: Mapping[Reading, int], root: Path) -> None:
    """Make the folder of the stores, and raise unless so many vectors of each reading can be written there."""
    check_writable(root, f"and some activations of '{backbone.name}' are missing or damaged there")
    root.mkdir(parents=True, exist_ok=True)
    itemsize = {r: torch.float32.itemsize if r.pooling.endswith("mean") else backbone.dtype.itemsize for r in vectors}
    needed = sum(count * backbone.hidden_size * itemsize[reading] for reading, count in vectors.items())
    free = shutil.disk_usage(root).free
    _log.info("Activations to compute: %.2f GB on disk, %.0f GB free at '%s'.", needed / 1e9, free / 1e9, root)
    if needed > 0.95 * free:
        raise OSError(
            f"The activations need {needed / 1e9:.2f} GB and '{root}' has {free / 1e9:.2f} GB free. Set "
            "`paths.cache_dir` to a larger disk, or fewer `backbone.layers`, poolings or `suite.max_rows`."
        )
