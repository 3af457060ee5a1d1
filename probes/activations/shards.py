"""One file of the activation store: what it states about itself, and the digests that prove it.

A shard is a safetensors file with one tensor, `activations`. Its metadata holds five texts: the `identity` of its store
(backbone, reading, versions), the `text_ids` and `layers` that name the tensor's first two axes, `content`, a digest of
the tensor's bytes, and `digest`, one over all of these and the tensor's dtype and shape. So the header can be checked
by itself, and a shard that was copied from the store of another backbone does not pass as one of this.

Where a text has a vector for each of its words, the tensor's first axis is the words of all texts, one text after
another, and a sixth text, `offsets`, tells where each text begins and ends.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from probes.kept_files import fast_digest, fast_digest_of_file
from probes.values import Layer

_SAFETENSORS_DTYPES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.float64: "F64"}


class DamagedShardError(ValueError):
    """A shard is not what was written, or belongs to another store; the message ends a sentence that names the file."""


@dataclass(frozen=True)
class ShardHeader:
    """What a shard states about itself.

    Attributes:
        identity: JSON of what decides the values: backbone, reading, versions.
        text_ids: Names of the tensor's first axis.
        layers: Names of its second axis.
        dtype: The tensor's dtype in the terms of safetensors.
        shape: `(texts, layers, features)`.
        content: Digest of the tensor's bytes.
        offsets: Where the vectors of each text begin and, last, how many there are; `()` for one vector a text.
    """

    identity: str
    text_ids: tuple[str, ...]
    layers: tuple[Layer, ...]
    dtype: str
    shape: tuple[int, ...]
    content: str
    offsets: tuple[int, ...] = ()

    @property
    def digest(self) -> str:
        """Digest of all fields."""
        fields = [self.identity, self.text_ids, self.layers, self.dtype, self.shape, self.content]
        fields += [self.offsets] if self.offsets else []
        return fast_digest(json.dumps(fields).encode())


def write_shard(
    path: Path,
    values: Tensor,
    *,
    identity: str,
    text_ids: Sequence[str],
    layers: Sequence[Layer],
    offsets: Sequence[int] = (),
) -> ShardHeader:
    """Write values `(texts, layers, features)`, or of words with `offsets`, and the header that describes them."""
    values = values.contiguous()
    content = fast_digest(values.reshape(-1).view(torch.uint8).numpy().data)
    dtype, shape = _SAFETENSORS_DTYPES[values.dtype], tuple(values.shape)
    header = ShardHeader(identity, tuple(text_ids), tuple(layers), dtype, shape, content, tuple(offsets))
    metadata = {
        "identity": identity,
        "text_ids": json.dumps(header.text_ids),
        "layers": json.dumps(header.layers),
        "content": content,
        "digest": header.digest,
    }
    if header.offsets:
        metadata["offsets"] = json.dumps(header.offsets)
    save_file({"activations": values}, path, metadata=metadata)
    return header


def read_header(path: Path, *, identity: str) -> ShardHeader:
    """Read and check a shard's header and the size of its file.

    Args:
        path: The shard.
        identity: That of the store in which the shard lies.

    Raises:
        DamagedShardError: The file is no shard, was cut or changed, or belongs to another store.
        FileNotFoundError: There is no such file.
    """
    if path.is_dir():
        raise DamagedShardError("is no readable shard (it is a folder)")
    try:
        with safe_open(path, framework="pt") as file:
            metadata, tensor = file.metadata(), file.get_slice("activations")
            dtype, shape = tensor.get_dtype(), tuple(tensor.get_shape())
        texts, layers = json.loads(metadata["text_ids"]), json.loads(metadata["layers"])
        offsets = tuple(json.loads(metadata.get("offsets", "[]")))
        header = ShardHeader(
            metadata["identity"], tuple(texts), tuple(layers), dtype, shape, metadata["content"], offsets
        )
        intact = header.digest == metadata["digest"]
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise DamagedShardError(f"is no readable shard ({error or type(error).__name__})") from error
    if not intact:
        raise DamagedShardError("is damaged: its header does not fit its digest")
    if header.identity != identity:
        raise DamagedShardError(f"belongs to another store: {_differences(header.identity, identity)}")
    rows, named = (header.offsets[-1], len(header.offsets) - 1) if header.offsets else (len(texts), len(texts))
    if header.shape[:2] != (rows, len(header.layers)) or named != len(texts):
        raise DamagedShardError("names other numbers of texts or layers than it holds")
    return header


def check_values(path: Path, header: ShardHeader) -> None:
    """Compare a shard's values with the digest in its header.

    Raises:
        DamagedShardError: They are not the ones that were written.
        FileNotFoundError: There is no such file.
    """
    with path.open("rb") as file:
        header_bytes = int.from_bytes(file.read(8), "little")
    if fast_digest_of_file(path, start=8 + header_bytes) != header.content:
        raise DamagedShardError("is damaged: its values do not fit their digest")


def _differences(found: str, wanted: str) -> str:
    """The fields in which two identities differ."""
    try:
        mine, others = json.loads(wanted), json.loads(found)
        different = [key for key in mine if mine[key] != others.get(key)]
        return ", ".join(f"{key} {others.get(key)!r} in place of {mine[key]!r}" for key in different)
    except (ValueError, AttributeError):
        return "its identity is not readable"
