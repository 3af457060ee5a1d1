"""Activations on disk: one folder a backbone and reading, shards of texts, found again by what the tokens are."""

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


class ActivationStore:
    """Shards of `(texts, layers, features)`, addressed by content; shards are only ever added.

    A shard is written as a whole or not at all, so a killed run resumes where it stopped, and runs that share the
    folder see each other's shards.

    Args:
        root: Folder of all stores.
        fingerprint: The backbone's identity by content.
        decoder_input: What the backbone's decoder reads.
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
        self._shards: dict[str, tuple[Layer, ...]] = {}
        self._places: dict[str, list[tuple[str, int]]] = defaultdict(list)
        self.refresh()

    def refresh(self) -> None:
        """See the shards that were added since the last look, by this process or another."""
        for path in sorted(self.folder.glob("[!.]*.safetensors")):
            if path.name not in self._shards:
                with safe_open(path, framework="pt") as shard:
                    about = shard.metadata()
                self._index(path.name, json.loads(about["text_ids"]), json.loads(about["layers"]))

    def missing(self, text_ids: Sequence[str], layers: Sequence[Layer]) -> list[str]:
        """Texts of which some wanted layer is not here; each once, in order."""
        return [text for text in dict.fromkeys(text_ids) if self._place(text, layers) is None]

    def add(self, text_ids: Sequence[str], layers: Sequence[Layer], values: Tensor) -> None:
        """Write one shard.

        Args:
            text_ids: Names of the first axis.
            layers: Names of the second axis.
            values: Shape `(texts, layers, features)`, in the dtype to keep.
        """
        content = json.dumps([list(text_ids), list(layers)])
        name = f"{hashlib.sha256(content.encode()).hexdigest()[:24]}.safetensors"
        about = {"text_ids": json.dumps(list(text_ids)), "layers": json.dumps(list(layers))}
        with replaced_file(self.folder / name) as temporary:
            save_file({"activations": values.contiguous()}, temporary, metadata=about)
        if name not in self._shards:
            self._index(name, text_ids, layers)

    def read(self, text_ids: Sequence[str], layers: Sequence[Layer]) -> Tensor:
        """Activations of texts, which may repeat.

        Returns:
            float32, shape `(layers, texts, features)`.

        Raises:
            KeyError: A text or layer is not in the store.
        """
        by_shard: dict[str, list[tuple[int, int]]] = defaultdict(list)
        for row, text in enumerate(text_ids):
            place = self._place(text, layers)
            if place is None:
                raise KeyError(f"Text {text} at layers {list(layers)} is not in the store '{self.folder}'.")
            by_shard[place[0]].append((row, place[1]))
        values: Tensor | None = None
        for shard, places in by_shard.items():
            rows, sources = map(torch.tensor, zip(*places, strict=True))
            columns = torch.tensor([self._shards[shard].index(layer) for layer in layers])
            with safe_open(self.folder / shard, framework="pt") as file:
                part = file.get_tensor("activations")[sources][:, columns].float()
            if values is None:
                values = torch.empty(len(layers), len(text_ids), part.shape[-1])
            values[:, rows] = part.transpose(0, 1)
        if values is None:
            raise KeyError("No text was asked for.")
        return values

    def _index(self, shard: str, text_ids: Sequence[str], layers: Sequence[Layer]) -> None:
        self._shards[shard] = tuple(layers)
        for row, text in enumerate(text_ids):
            self._places[text].append((shard, row))

    def _place(self, text: str, layers: Sequence[Layer]) -> tuple[str, int] | None:
        wanted = set(layers)
        found = (place for place in self._places.get(text, ()) if wanted.issubset(self._shards[place[0]]))
        return next(found, None)
