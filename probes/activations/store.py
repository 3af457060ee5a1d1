"""Activations on disk: one folder for each backbone and reading, in it shards of texts, found by their token ids."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import torch
import transformers
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from probes.files import replaced_file, write_text
from probes.values import Layer, Reading

_FORMAT = 1
"""Version of the layout of shards; it is part of the key."""


class ActivationStore:
    """Shards of shape `(texts, layers, features)` in a folder named by its content; shards are added, never changed.

    A shard is written as a whole or not at all, so a killed run resumes where it stopped, and runs that share the
    folder see each other's shards.

    Args:
        root: Folder of all stores.
        fingerprint: Digest of the backbone's weights and configuration.
        decoder_input: What the decoder of an encoder–decoder model reads: its `start` token, or the `text`.
        reading: Stack, site and pooling.
    """

    def __init__(self, root: Path, *, fingerprint: str, decoder_input: str, reading: Reading) -> None:
        identity = {
            "format": _FORMAT,
            "fingerprint": fingerprint,
            "decoder_input": decoder_input,
            "reading": str(reading),
            "transformers": transformers.__version__,
            "torch": torch.__version__,
        }
        text = json.dumps(identity, sort_keys=True, indent=1)
        self.fingerprint, self.reading = fingerprint, reading
        self.folder = root / hashlib.sha256(text.encode()).hexdigest()[:24]
        self.folder.mkdir(parents=True, exist_ok=True)
        if not (self.folder / "identity.json").exists():
            write_text(self.folder / "identity.json", text)
        self._layers_by_shard: dict[str, tuple[Layer, ...]] = {}
        self._places: dict[str, list[tuple[str, int]]] = defaultdict(list)  # text id → (shard, row in it)
        self.refresh()

    def refresh(self) -> None:
        """Index the shards that were added since the last call, by this process or another."""
        for path in sorted(self.folder.glob("[!.]*.safetensors")):  # a dot begins a file that is being written
            if path.name not in self._layers_by_shard:
                with safe_open(path, framework="pt") as shard:
                    metadata = shard.metadata()
                self._index(path.name, json.loads(metadata["text_ids"]), json.loads(metadata["layers"]))

    def missing(self, text_ids: Sequence[str], layers: Sequence[Layer]) -> list[str]:
        """The texts for which the store lacks some of the layers, without repetitions, in the given order."""
        return [text for text in dict.fromkeys(text_ids) if self._find(text, layers) is None]

    def add(self, text_ids: Sequence[str], layers: Sequence[Layer], values: Tensor) -> None:
        """Write one shard.

        Args:
            text_ids: Names of the first axis.
            layers: Names of the second axis.
            values: Shape `(texts, layers, features)`, in the dtype to store.
        """
        content = json.dumps([list(text_ids), list(layers)])
        name = f"{hashlib.sha256(content.encode()).hexdigest()[:24]}.safetensors"
        metadata = {"text_ids": json.dumps(list(text_ids)), "layers": json.dumps(list(layers))}
        with replaced_file(self.folder / name) as temporary:
            save_file({"activations": values.contiguous()}, temporary, metadata=metadata)
        if name not in self._layers_by_shard:
            self._index(name, text_ids, layers)

    def read(self, text_ids: Sequence[str], layers: Sequence[Layer]) -> Tensor:
        """Activations of texts, which may repeat.

        Returns:
            float32, shape `(layers, texts, features)`.

        Raises:
            KeyError: A text or layer is not in the store, or `text_ids` is empty.
        """
        by_shard: dict[str, list[tuple[int, int]]] = defaultdict(list)  # shard → (row of the result, row in the shard)
        for row, text in enumerate(text_ids):
            place = self._find(text, layers)
            if place is None:
                raise KeyError(f"Text {text} at layers {list(layers)} is not in the store '{self.folder}'.")
            shard, source = place
            by_shard[shard].append((row, source))
        values: Tensor | None = None
        for shard, pairs in by_shard.items():
            rows, sources = map(torch.tensor, zip(*pairs, strict=True))
            columns = torch.tensor([self._layers_by_shard[shard].index(layer) for layer in layers])
            with safe_open(self.folder / shard, framework="pt") as file:
                selected = file.get_tensor("activations")[sources][:, columns].float()  # (texts, layers, features)
            if values is None:  # the first shard tells the number of features
                values = torch.empty(len(layers), len(text_ids), selected.shape[-1])
            values[:, rows] = selected.transpose(0, 1)
        if values is None:
            raise KeyError("No text was given; `text_ids` must have at least one.")
        return values

    def _index(self, shard: str, text_ids: Sequence[str], layers: Sequence[Layer]) -> None:
        self._layers_by_shard[shard] = tuple(layers)
        for row, text in enumerate(text_ids):
            self._places[text].append((shard, row))

    def _find(self, text: str, layers: Sequence[Layer]) -> tuple[str, int] | None:
        """The first shard that has all these layers of a text, and the text's row in it; `None` if there is none."""
        wanted = set(layers)
        places = self._places.get(text, ())
        return next((place for place in places if wanted.issubset(self._layers_by_shard[place[0]])), None)
