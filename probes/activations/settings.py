"""What a user may decide about extraction: `conf/extraction`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from probes.kept_files import Verify, check_cache_settings
from probes.token_values import SUBWORD_POOLINGS, TOKEN_MODES


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
        texts_per_shard: Most texts in one file of the store, and most that a killed run loses. A file ends earlier
            where its texts are long.
        workers: Processes of this machine that read a backbone together, this one included. On a CPU they divide
            torch's threads, and each loads the weights; on GPUs each has its own. They start for each backbone, which
            takes seconds, so that they pay where an extraction takes minutes.
        verify: Whether the values of a stored file are compared with their digest before they are used (`full`), or
            only its header and size (`quick`).
        lock_timeout: Seconds to wait for another run that computes the last of the texts and writes none; `None` waits
            for ever.
        remote: URL of an object store (`s3://`, `gs://`, `az://`, `file://`) in which activations are kept too.
        local_cache_gb: Most GB of local copies of what the object store has; `None` for no limit.

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
    workers: int = 1
    verify: Verify = "full"
    lock_timeout: float | None = 3600.0
    remote: str | None = None
    local_cache_gb: float | None = None

    def __post_init__(self) -> None:
        for key in ("max_length", "tokens_per_batch", "texts_per_shard", "workers"):
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
        if self.local_cache_gb is not None and not self.local_cache_gb > 0:
            raise ValueError(f"`paths.local_cache_gb` must be a positive number or null; got {self.local_cache_gb!r}.")
