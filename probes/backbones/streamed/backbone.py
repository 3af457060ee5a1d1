"""A backbone whose blocks stay on disk, with the activations of the same model in memory, bit for bit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self, TypeVar

import torch
from huggingface_hub import snapshot_download
from transformers import AutoConfig, AutoTokenizer
from typing_extensions import override

from probes.backbones.fingerprint import fingerprint
from probes.backbones.frozen import FrozenBackbone
from probes.backbones.loading import Source, resolve_dtype
from probes.backbones.streamed.passes import HELD_BYTES, BlockByBlock
from probes.backbones.streamed.weights import DiskWeights, empty_model
from probes.backbones.structure import find_stacks

_T = TypeVar("_T")


class StreamedBackbone(FrozenBackbone):
    """A `FrozenBackbone` on the CPU that holds embeddings, final norm and one block at a time.

    A pass by itself reads all weights; passes in `run_together` read them once. Extraction runs the batches of a shard
    together, so that a larger `extraction.texts_per_shard` means fewer reads.

    Attributes:
        weights: Where the weights lie, and how many bytes of them were read so far.
    """

    weights: DiskWeights
    _runner: BlockByBlock

    @classmethod
    def open(
        cls,
        source: Source,
        *,
        dtype: str = "auto",
        cache_dir: str | None = None,
        held_bytes: int = HELD_BYTES,
        **options: Any,
    ) -> Self:
        """Open a model in safetensors files.

        Args:
            source: Where it comes from.
            dtype: As in `FrozenBackbone.load`.
            cache_dir: As in `FrozenBackbone.load`.
            held_bytes: Bytes of hidden states that are kept in memory between blocks; more go to temporary files.
            **options: Keyword arguments of `FrozenBackbone`.

        Raises:
            ValueError: A weight is not in the files under its own name, or is NaN or infinite.
            FileNotFoundError: There are no safetensors files.
        """
        place = source.locate(Path(cache_dir or "~/.cache/probes").expanduser())
        folder = Path(place)
        if source.name is not None:  # a repository may hold the weights in other formats, too
            wanted = ["*.safetensors", "*.safetensors.index.json"]
            folder = Path(snapshot_download(place, revision=source.revision, allow_patterns=wanted))
        config = AutoConfig.from_pretrained(place, revision=source.revision)
        model = empty_model(config, resolve_dtype(dtype, torch.device("cpu")))
        weights = DiskWeights(model, folder)
        prefixes = {id(module): name for name, module in model.named_modules()}
        blocks = [
            (prefixes[id(block)], block)
            for name, stack in sorted(find_stacks(model).items(), key=lambda item: item[0] == "decoder")
            for block in stack.blocks
        ]
        weights.load_all_but(f"{name}." for name, _ in blocks)
        runner = BlockByBlock(weights, blocks, held_bytes=held_bytes)
        tokenizer = AutoTokenizer.from_pretrained(place, revision=source.revision)
        return cls(model, tokenizer, weights=weights, runner=runner, name=source.title, **options)

    def __init__(self, *args: Any, weights: DiskWeights, runner: BlockByBlock, **options: Any) -> None:
        # `nn.Module` allows attributes that are no modules before its own constructor; the checks of the base need them
        object.__setattr__(self, "weights", weights)
        object.__setattr__(self, "_runner", runner)
        super().__init__(*args, **options)

    @property
    @override
    def streamed(self) -> bool:
        return True

    @override
    def run_together(self, calls: Sequence[Callable[[], _T]]) -> list[_T]:
        return self._runner.run_together(calls)

    @property
    @override
    def device(self) -> torch.device:
        """The CPU."""
        return torch.device("cpu")

    @override
    def fingerprint(self) -> str:
        """As of the same model in memory; reads all weights once."""
        return fingerprint(self.model, read=self.weights.tensor)


def refuse_other_options(**options: object) -> None:
    """Raise if an option is set that blocks on disk do not have."""
    given = {key: value for key, value in options.items() if value not in (None, "auto", "cpu")}
    if given:
        listed = ", ".join(f"`backbone.{key}={value}`" for key, value in given.items())
        raise ValueError(
            f"`backbone.stream=true` reads plain weights block by block on the CPU; got {listed} too. Leave that out, "
            "merge an adapter into the weights first, or set `backbone.stream=false` and `backbone.device_map=auto`."
        )
