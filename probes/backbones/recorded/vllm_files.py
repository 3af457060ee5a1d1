"""Hidden states that vLLM has written, read as if they were computed here.

vLLM's `extract_hidden_states` with the `ExampleHiddenStatesConnector` writes one safetensors file a prompt, with
`token_ids` `(tokens,)` and `hidden_states` `(tokens, layers, features)`. Layer k is the residual stream after k blocks,
as it is here, and the layer of the number of blocks comes before the final norm: vLLM does not write the layer `final`.
The files do not say which layers they hold, so that the list that vLLM was given has to be repeated.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from transformers import AutoTokenizer, PreTrainedModel

from probes.backbones.alignment import AlignedTexts, Ranges, align
from probes.backbones.hooks import Spans, TokenPooler
from probes.backbones.structure import LayerSpec, Stack, combine_readings
from probes.backbones.token_batches import TokenizedTexts, Tokenizer, text_id
from probes.files import digest_of_json
from probes.kept_files import fast_digest_of_file
from probes.values import Layer, Reading

try:
    import fcntl
except ImportError:  # Windows, on which vLLM does not run
    fcntl = None

_T = TypeVar("_T")


class VllmFiles:
    """A folder of vLLM's files as a `ReadableBackbone`.

    Its activations are kept under an identity of their own, made of the files' bytes: vLLM computes with other kernels,
    so that they are never mixed with those of the same weights in transformers.

    Args:
        folder: The files, also in folders below it.
        tokenizer: Hub name or folder of the tokenizer whose ids vLLM was given.
        layer_ids: The `eagle_aux_hidden_state_layer_ids` that vLLM was given, in the same order.
        name: The name in errors and results.
        layers: The layers to read by default: `all` of them, a number, or a list.
        chat_template: Render every text as the user's turn of a chat, as it was for vLLM.

    Raises:
        FileNotFoundError: The folder has no safetensors files.
        ValueError: A file is damaged, still being written, or holds another number of layers or tokens than it should;
            or two files disagree about one text.
    """

    decoder_input = "start"
    pad_id = 0
    streamed = False

    def __init__(
        self,
        folder: str,
        tokenizer: str,
        layer_ids: Sequence[int],
        *,
        name: str = "vllm",
        layers: LayerSpec = "all",
        chat_template: bool = False,
    ) -> None:
        self.name, self.layer_ids, self.layer_spec = name, tuple(layer_ids), layers
        self.tokenizer = Tokenizer(
            AutoTokenizer.from_pretrained(tokenizer), max_length=10**9, chat_template=chat_template
        )
        self.device = torch.device("cpu")
        self.model = cast(PreTrainedModel, nn.Module())  # it has no weights
        if len(set(self.layer_ids)) < len(self.layer_ids) or not self.layer_ids:
            raise ValueError(f"`backbone.layer_ids` must be different numbers, at least one; got {list(layer_ids)}.")
        self._files: dict[str, Path] = {}
        self._tokens: dict[str, np.ndarray] = {}
        digests: dict[str, str] = {}
        places = sorted(Path(folder).expanduser().rglob("*.safetensors"))
        if not places:
            raise FileNotFoundError(f"'{folder}' has no safetensors files of vLLM. Set `backbone.folder`.")
        for path in places:
            ids, (self.hidden_size, self.dtype) = self._checked(path)
            text, digest = text_id(ids), fast_digest_of_file(path)
            if digests.setdefault(text, digest) != digest:
                raise ValueError(
                    f"'{path}' and '{self._files[text]}' hold different hidden states of one text. Keep the files of "
                    "one run of vLLM in `backbone.folder`."
                )
            self._files[text], self._tokens[text] = path, ids
        self._fingerprint = digest_of_json(["vLLM", self.layer_ids, digests], digits=32)
        self.layers("decoder")  # refuses a layer that is not there

    def fingerprint(self) -> str:
        """A digest of all files and of the layers that they hold."""
        return self._fingerprint

    def layers(self, stack: str, *, site: str = "residual", spec: LayerSpec | None = None) -> tuple[Layer, ...]:
        """Names of the layers that `spec`, by default the backbone's, selects; in ascending order.

        Raises:
            ValueError: The files do not hold a layer.
        """
        del stack, site
        chosen = self.layer_spec if spec is None else spec
        if chosen == "all":
            return tuple(sorted(self.layer_ids))
        wanted = [chosen] if isinstance(chosen, str | int) else list(chosen)
        absent = [layer for layer in wanted if layer not in self.layer_ids]
        if absent or not wanted:
            raise ValueError(
                f"The files of vLLM for '{self.name}' have no layer {absent}. They have {sorted(self.layer_ids)}, all "
                "before the final norm, so that there is no layer 'final'. Set `backbone.layers` to some of these."
            )
        return tuple(sorted(set(wanted), key=int))

    def readings(
        self, poolings: str | Sequence[str] | None = None, sites: str | Sequence[str] = "residual"
    ) -> tuple[Reading, ...]:
        """As of a decoder, at site `residual` alone.

        Raises:
            ValueError: An unknown pooling, or another site.
        """
        if sites != "residual" and list(sites) != ["residual"]:
            raise ValueError(f"vLLM writes the residual stream alone, no {sites}. Set `extraction.site=residual`.")
        return combine_readings([Stack("decoder", nn.Module(), nn.ModuleList(), None)], poolings, sites)

    def tokenize(self, texts: Sequence[str], *, max_length: int | None = None) -> TokenizedTexts:
        """Token ids of texts, truncated on the left.

        Raises:
            ValueError: No file has exactly the token ids of a text.
        """
        tokenized = self.tokenizer(texts, max_length=max_length)
        self._require_files(tokenized)
        return tokenized

    def align(self, texts: Sequence[str], ranges: Sequence[Ranges], *, max_length: int | None = None) -> AlignedTexts:
        """Token ids of texts and the tokens of their words; errors as in `tokenize`."""
        aligned = align(self.tokenizer, texts, ranges, max_length=max_length)
        self._require_files(aligned.tokenized)
        return aligned

    def run_together(self, calls: Sequence[Callable[[], _T]]) -> list[_T]:
        """Call functions that each read some texts."""
        return [call() for call in calls]

    def reported(self, input_ids: Tensor, attention_mask: Tensor, **_: Any) -> dict[Reading, dict[Layer, Tensor]]:
        """Nothing: there is no model that could report its hidden states a second time."""
        del input_ids, attention_mask
        return {}

    def __call__(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        *,
        readings: Sequence[Reading],
        layers: LayerSpec | None = None,
        spans: Spans | None = None,
    ) -> dict[Reading, Tensor]:
        """Read the hidden states of a batch from their files, and pool them; arguments as of `FrozenBackbone`.

        Raises:
            ValueError: No file has exactly the token ids of a row.
        """
        names = self.layers("decoder", spec=layers)
        columns = torch.tensor([self.layer_ids.index(cast(int, layer)) for layer in names])
        hidden = torch.zeros(len(names), *input_ids.shape, self.hidden_size, dtype=self.dtype)
        for row, (ids, mask) in enumerate(zip(input_ids, attention_mask, strict=True)):
            own = ids[mask.bool()].numpy().astype(np.int32)
            text = text_id(own)
            if text not in self._files:
                raise ValueError(self._no_file(own, "a text"))
            with safe_open(self._files[text], framework="pt") as file:
                # (tokens, layers, features) → (layers, tokens, features)
                hidden[:, row, : len(own)] = file.get_tensor("hidden_states")[:, columns].transpose(0, 1)
        pooler = TokenPooler(attention_mask, spans)
        return {r: torch.stack([pooler.pool(r.pooling, of_layer) for of_layer in hidden]) for r in readings}

    def _checked(self, path: Path) -> tuple[np.ndarray, tuple[int, torch.dtype]]:
        """Token ids of a file, and the width and dtype of its hidden states."""
        _refuse_unfinished(path)
        try:
            with safe_open(path, framework="pt") as file:
                ids = file.get_tensor("token_ids").numpy().astype(np.int32)
                hidden = file.get_tensor("hidden_states")  # mapped, not read
        except (SafetensorError, KeyError, OSError) as error:
            raise ValueError(f"'{path}' is no whole file of vLLM's hidden states ({error}).") from error
        if hidden.ndim != 3 or hidden.shape[1] != len(self.layer_ids):
            raise ValueError(
                f"'{path}' holds hidden states of shape {tuple(hidden.shape)}; (tokens, layers, features) with "
                f"{len(self.layer_ids)} layers was expected. Set `backbone.layer_ids` to the list that vLLM was given."
            )
        if hidden.shape[0] != len(ids):
            raise ValueError(
                f"'{path}' has {len(ids)} token ids and hidden states of {hidden.shape[0]} tokens: vLLM took the rest "
                "from its prefix cache. Run it with `enable_prefix_caching=False` and `enable_chunked_prefill=False`."
            )
        return ids, (hidden.shape[2], hidden.dtype)

    def _require_files(self, tokenized: TokenizedTexts) -> None:
        for number, (text, ids) in enumerate(zip(tokenized.text_ids, tokenized.ids, strict=True), start=1):
            if text not in self._files:
                raise ValueError(self._no_file(ids, f"text {number}"))

    def _no_file(self, ids: np.ndarray, what: str) -> str:
        """Why a text is refused, with the file that comes closest."""
        closest = max(self._tokens, key=lambda text: _shared_end(self._tokens[text], ids))
        theirs = self._tokens[closest]
        lengths = Counter(len(tokens) for tokens in self._tokens.values())
        return (
            f"No file of vLLM has the token ids of {what} ({len(ids)} tokens). The closest of {sum(lengths.values())}, "
            f"'{self._files[closest]}', has {len(theirs)} tokens, of which the last {_shared_end(theirs, ids)} agree. "
            "Prefix caching shortens files: run vLLM with `enable_prefix_caching=False` on the same texts, with the "
            "same tokenizer, special tokens and `backbone.chat_template`."
        )


def _shared_end(one: np.ndarray, other: np.ndarray) -> int:
    """How many tokens at the end of two texts are equal."""
    shortest = min(len(one), len(other))
    differ = np.flatnonzero(one[len(one) - shortest :] != other[len(other) - shortest :])
    return shortest if len(differ) == 0 else shortest - 1 - int(differ[-1])


def _refuse_unfinished(path: Path) -> None:
    """Raise if vLLM still writes a file: it holds a lock beside it while it does."""
    lock = path.with_name(f"{path.name}.lock")
    if fcntl is None or not lock.exists():
        return
    with lock.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError as error:
            raise ValueError(f"vLLM still writes '{path}'. Start again when it has ended.") from error
