"""Activations on disk: one folder for each backbone and reading, in it shards of texts, found by their token ids."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

import torch
import transformers
from safetensors import safe_open
from torch import Tensor

from probes.activations.claims import Claims
from probes.activations.remote import ClaimLog, RemoteShards, open_objects
from probes.activations.shards import DamagedShardError, ShardHeader, check_values, read_header, write_shard
from probes.backbones import TokenizedTexts
from probes.files import remove_litter, replaced_file, write_text
from probes.kept_files import Verify, set_aside
from probes.token_values import token_mode
from probes.values import Layer, Reading

_log = logging.getLogger(__name__)

_FORMAT = 2
"""Version of the layout of shards; it is part of the key."""


class ActivationStore:
    """Shards of shape `(texts, layers, features)` in a folder named by its content; shards are added, never changed.

    The store of a reading of words has shards of shape `(words of all texts, layers, features)` with offsets, and names
    a text by its tokens and its words.

    A shard is written as a whole or not at all, so a killed run resumes where it stopped, and runs that share the
    folder see each other's shards. Each shard states what it holds (backbone, reading, texts, layers) and has a digest
    over that statement and over its values. A shard that is damaged or belongs elsewhere is set aside as `*.corrupt`
    with a warning, and counts as missing.

    Opening a store and reading from it writes nothing, so a cache may be read-only.

    A store may have a remote: shards are then copied to an object store when they are written, and the folder is a read
    cache from which those that are in the object store may be deleted.

    Args:
        root: Folder of all stores.
        fingerprint: Digest of the backbone's weights and configuration.
        decoder_input: What the decoder of an encoder–decoder model reads: its `start` token, or the `text`.
        reading: Stack, site and pooling.
        verify: `full` checks the values of a shard before they are first used, `quick` only its header and size. What
            is copied from a remote is checked in any case.
        remote: URL of an object store.
        limit: Most bytes of the local copies of shards that are in the object store too; `None` for no limit.
    """

    def __init__(
        self,
        root: Path,
        *,
        fingerprint: str,
        decoder_input: str,
        reading: Reading,
        verify: Verify = "full",
        remote: str | None = None,
        limit: int | None = None,
    ) -> None:
        identity = {
            "format": _FORMAT,
            "fingerprint": fingerprint,
            "decoder_input": decoder_input,
            "reading": str(reading),
            "transformers": transformers.__version__,
            "torch": torch.__version__,
        }
        self.fingerprint, self.reading, self._full = fingerprint, reading, verify == "full"
        self._identity = json.dumps(identity, sort_keys=True, indent=1)
        self.folder = root / hashlib.sha256(self._identity.encode()).hexdigest()[:24]
        self.lock_file = root / f"{fingerprint[:32]}.lock"
        self._headers: dict[str, ShardHeader] = {}
        self._places: dict[str, list[tuple[str, int]]] = defaultdict(list)  # text id → (shard, row in it)
        self._verified: dict[str, tuple[int, ...]] = {}  # shard → its state on disk when it was verified
        self._objects = None if remote is None else open_objects(remote)
        self._remote = (
            None if self._objects is None else RemoteShards(self._objects, self.folder, self._identity, limit=limit)
        )
        self._check_identity()
        self.refresh()

    def refresh(self) -> None:
        """Index the shards that were added since the last call, by this process or another."""
        for name, header in {} if self._remote is None else self._remote.new_shards().items():
            if name not in self._headers:
                self._index(name, header)
        for path in sorted(self.folder.glob("[!.]*.safetensors")):  # a dot begins a file that is being written
            if path.name not in self._headers and (header := self._checked_header(path)) is not None:
                self._index(path.name, header)

    def claims(self) -> Claims:
        """A process's claims on texts of the store's backbone: here, and where the object store is, if there is one."""
        log = None if self._objects is None else ClaimLog(self._objects, self.fingerprint)
        return Claims(self.lock_file, log)

    @property
    def num_shards(self) -> int:
        """Shards that are indexed."""
        return len(self._headers)

    def missing(self, text_ids: Sequence[str], layers: Sequence[Layer]) -> list[str]:
        """The texts for which the store lacks some of the layers, without repetitions, in the given order."""
        return [text for text in dict.fromkeys(text_ids) if self._find(text, layers) is None]

    def verify(self, text_ids: Iterable[str], layers: Sequence[Layer]) -> None:
        """Check every shard from which these texts would be read; damaged ones are set aside, so their texts miss."""
        texts = list(dict.fromkeys(text_ids))
        while texts:
            shards: dict[str, list[str]] = defaultdict(list)
            for text in texts:
                if (place := self._find(text, layers)) is not None:
                    shards[place[0]].append(text)
            if self._remote is not None and self._full:
                self._remote.fetch([shard for shard in shards if not self._remote.has_checked(shard)])
            # Another shard may have the texts of one that was set aside.
            texts = [text for shard, of_shard in shards.items() if not self._is_whole(shard) for text in of_shard]

    def add(
        self, text_ids: Sequence[str], layers: Sequence[Layer], values: Tensor, *, offsets: Sequence[int] = ()
    ) -> None:
        """Write one shard.

        Args:
            text_ids: Names of the first axis.
            layers: Names of the second axis.
            values: Shape `(texts, layers, features)`, in the dtype to store; of words `(words, layers, features)`.
            offsets: Of words: where those of each text begin and, last, how many there are.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        if not (self.folder / "identity.json").exists():
            write_text(self.folder / "identity.json", self._identity)
        content = json.dumps([list(text_ids), list(layers)])
        name = f"{hashlib.sha256(content.encode()).hexdigest()[:24]}.safetensors"
        with replaced_file(self.folder / name) as temporary:
            header = write_shard(
                temporary, values, identity=self._identity, text_ids=text_ids, layers=layers, offsets=offsets
            )
        if name not in self._headers:
            self._index(name, header)
        self._verified[name] = _state(self.folder / name)
        self._push(name)

    def push(self) -> None:
        """Copy to the object store what it lacks of the folder, such as the last shard of a run that was killed."""
        if self._remote is not None:
            for name in [name for name in self._headers if name not in self._remote]:
                if self._is_whole(name):
                    self._push(name)

    def read(self, text_ids: Sequence[str], layers: Sequence[Layer]) -> Tensor:
        """Activations of texts, which may repeat.

        Returns:
            float32, shape `(layers, texts, features)`.

        Raises:
            KeyError: A text or layer is not in the store, or not any more because its shard is damaged; or `text_ids`
                is empty.
        """
        values: Tensor | None = None
        for shard, pairs in self._by_shard(text_ids, layers).items():
            rows, sources = map(torch.tensor, zip(*pairs, strict=True))
            selected = self._vectors(shard, sources, layers)
            if values is None:  # the first shard tells the number of features
                values = torch.empty(len(layers), len(text_ids), selected.shape[-1])
            values[:, rows] = selected.transpose(0, 1)
        if values is None:
            raise KeyError("No text was given; `text_ids` must have at least one.")
        return values

    def files_of(self, text_ids: Sequence[str], layers: Sequence[Layer]) -> list[list[int]]:
        """The positions in `text_ids` of the texts that are read from each file, in the order of the file.

        Raises:
            KeyError: As in `read`.
        """
        by_shard = self._by_shard(text_ids, layers)
        return [[row for row, _ in sorted(pairs, key=lambda pair: pair[1])] for pairs in by_shard.values()]

    def read_tokens(self, text_ids: Sequence[str], layers: Sequence[Layer]) -> tuple[Tensor, Tensor]:
        """Activations of the words of texts, which may repeat, in the store of a reading of words.

        Returns:
            Values, float32, shape `(layers, words, features)`, one text after another; and offsets, int64
            `(texts + 1,)`: where the words of each text begin and, last, how many there are.

        Raises:
            KeyError: As in `read`.
        """
        by_shard = self._by_shard(text_ids, layers)
        lengths = torch.zeros(len(text_ids), dtype=torch.long)
        for shard, pairs in by_shard.items():
            of_shard = torch.tensor(self._headers[shard].offsets).diff()
            rows, sources = map(torch.tensor, zip(*pairs, strict=True))
            lengths[rows] = of_shard[sources]
        offsets = torch.cat([torch.zeros(1, dtype=torch.long), lengths.cumsum(0)])
        values: Tensor | None = None
        for shard, pairs in by_shard.items():
            starts = torch.tensor(self._headers[shard].offsets)
            rows, sources = map(torch.tensor, zip(*pairs, strict=True))
            selected = self._vectors(shard, _ranges(starts[sources], lengths[rows]), layers)
            if values is None:
                values = torch.empty(len(layers), int(offsets[-1]), selected.shape[-1])
            values[:, _ranges(offsets[rows], lengths[rows])] = selected.transpose(0, 1)
        if values is None:
            raise KeyError("No text was given; `text_ids` must have at least one.")
        return values, offsets

    def _by_shard(self, text_ids: Sequence[str], layers: Sequence[Layer]) -> dict[str, list[tuple[int, int]]]:
        """Shard → the positions in `text_ids` of the texts that are read from it, each with the text's row there."""
        self.verify(text_ids, layers)
        by_shard: dict[str, list[tuple[int, int]]] = defaultdict(list)
        for row, text in enumerate(text_ids):
            place = self._find(text, layers)
            if place is None:
                raise KeyError(f"Text {text} at layers {list(layers)} is not in the store '{self.folder}'.")
            shard, source = place
            by_shard[shard].append((row, source))
        return by_shard

    def _vectors(self, shard: str, rows: Tensor, layers: Sequence[Layer]) -> Tensor:
        """Some rows of a shard, float32 `(rows, layers, features)`."""
        columns = torch.tensor([self._headers[shard].layers.index(layer) for layer in layers])
        # Another process may delete the copy of a remote shard, to keep to its limit, before this one has opened it.
        for _ in range(1 if self._remote is None else 3):
            if self._remote is not None:
                self._remote.keep_local(shard)
            with suppress(FileNotFoundError), safe_open(self.folder / shard, framework="pt") as file:
                return file.get_tensor("activations")[rows][:, columns].float()
        raise KeyError(f"Shard '{shard}' is not in the store '{self.folder}' any more.")

    def remove_litter(self) -> None:
        """Delete half-written files of killed processes; only for who holds `lock_file`."""
        remove_litter(self.folder)

    def _is_whole(self, shard: str) -> bool:
        """Whether a shard is the one that was written; if not, it is set aside and no longer indexed."""
        if self._is_whole_here(shard):
            return True
        if self._remote is not None and shard in self._remote:
            if not self._full or self._remote.has_checked(shard):
                return True  # the log describes it, and it is checked whenever it is copied
            self._remote.fetch([shard])
            if self._is_whole_here(shard):
                return True
        self._forget(shard)
        return False

    def _is_whole_here(self, shard: str) -> bool:
        """The same of the file in the folder; if there is none, or it was set aside, it is not whole."""
        path = self.folder / shard
        with suppress(FileNotFoundError):
            state = _state(path)
            if self._verified.get(shard) == state:
                return True
            header, indexed = self._checked_header(path, values=self._full), self._headers[shard]
            if header is not None and _names(header) == _names(indexed):
                self._verified[shard] = state
                return True
        return False

    def _push(self, shard: str) -> None:
        """Copy a shard to the object store, if there is one."""
        if self._remote is None:
            return
        try:
            self._remote.push(shard)
        except PermissionError as error:
            _log.warning("%s. What this run computes stays in '%s'.", error, self.folder)

    def _checked_header(self, path: Path, *, values: bool = False) -> ShardHeader | None:
        """A shard's header; `None` if the shard is gone, or if it was set aside because it is damaged."""
        try:
            header = read_header(path, identity=self._identity)
            if values:
                check_values(path, header)
        except DamagedShardError as error:
            set_aside(path, str(error), remedy="Its texts are computed again.")
        except FileNotFoundError:
            pass
        else:
            return header
        return None

    def _check_identity(self) -> None:
        """Compare the description of the store with what it should be, and note that the store is in use."""
        path = self.folder / "identity.json"
        if path.exists() and path.read_bytes() != self._identity.encode():
            set_aside(path, "is damaged", remedy="It is written again with the next shard.")
        with suppress(OSError):  # its time tells `probes cache prune` when the store was last used
            os.utime(path)

    def _index(self, shard: str, header: ShardHeader) -> None:
        self._headers[shard] = header
        for row, text in enumerate(header.text_ids):
            self._places[text].append((shard, row))

    def _forget(self, shard: str) -> None:
        for text in self._headers.pop(shard).text_ids:
            self._places[text] = [place for place in self._places[text] if place[0] != shard]

    def _find(self, text: str, layers: Sequence[Layer]) -> tuple[str, int] | None:
        """The first shard that has all these layers of a text, and the text's row in it; `None` if there is none."""
        wanted = set(layers)
        places = self._places.get(text, ())
        return next((place for place in places if wanted.issubset(self._headers[place[0]].layers)), None)


def names_under(reading: Reading, texts: TokenizedTexts) -> tuple[str, ...]:
    """What the store of a reading calls these texts: those that are read word by word are named by their words, too."""
    return texts.span_ids if token_mode(reading) in {"words", "spans"} else texts.text_ids


def _names(header: ShardHeader) -> tuple[tuple[str, ...], tuple[Layer, ...], tuple[int, ...]]:
    return header.text_ids, header.layers, header.offsets


def _ranges(starts: Tensor, lengths: Tensor) -> Tensor:
    """The whole numbers of several ranges, one range after another.

    >>> _ranges(torch.tensor([5, 0]), torch.tensor([2, 3])).tolist()
    [5, 6, 0, 1, 2]
    """
    within = torch.arange(int(lengths.sum())) - (lengths.cumsum(0) - lengths).repeat_interleave(lengths)
    return starts.repeat_interleave(lengths) + within


def _state(path: Path) -> tuple[int, int, int]:
    """What changes when a file is replaced or written to: inode, size in bytes, time of the last change in ns."""
    status = path.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns
