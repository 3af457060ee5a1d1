"""A model in training, read as a frozen backbone for a moment."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, Self, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from typing_extensions import override

from probes.backbones.hooks import ForwardPass
from probes.backbones.loading import Source, load_causal_lm, load_pretrained
from probes.backbones.structure import LayerSpec, choose_stacks, combine_readings, find_stacks, resolve_layers
from probes.backbones.token_batches import TokenizedTexts, Tokenizer, longest_input
from probes.backbones.verification import check_hooks, is_causal
from probes.threads import map_on_cores
from probes.values import Layer, Reading

_NAMES_AND_PLACES = (
    "_name_or_path",
    "transformers_version",
    "_commit_hash",
    "quantization_config",
    "dtype",
)


def fingerprint(model: PreTrainedModel) -> str:
    """32 hexadecimal digits over every parameter and buffer (name, dtype, shape, bytes) and the configuration.

    Equal weights from the Hub, a folder or a GGUF file give the same digits; another revision, adapter, dtype,
    quantization or attention kernel gives others.

    Raises:
        ValueError: Weights are offloaded and cannot be read.
    """
    config = {key: value for key, value in model.config.to_dict().items() if key not in _NAMES_AND_PLACES}
    config["attention_kernel"] = model.config._attn_implementation
    weights = dict(sorted((*model.named_parameters(), *model.named_buffers()), key=lambda item: item[0]))
    for name, tensor in weights.items():
        if tensor.is_meta:
            raise ValueError(
                f"Weight '{name}' is offloaded. Set `backbone.device_map` so that every weight has a device."
            )
    digest = hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode())
    contents = map_on_cores(_content_digest, weights.values(), torch.device("cpu"))
    for (name, tensor), content in zip(weights.items(), contents, strict=True):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} {content}".encode())
    return digest.hexdigest()[:32]


def _content_digest(tensor: Tensor) -> str:
    values = tensor.detach().cpu().contiguous().reshape(-1)
    return hashlib.sha256(values.view(torch.uint8).numpy().data).hexdigest()


class FrozenBackbone(nn.Module):
    """Any transformers model, never trained: gradients off, eval mode kept.

    Layer 0 is the input of the first block, layer k the output of block k on the residual stream, `"final"` what
    follows the final norm (equal to layer L where a model has none).

    Args:
        model: A transformers model, with or without a head; a head is not run.
        tokenizer: Its tokenizer; a private copy is made.
        name: What errors and results call it.
        stack: `encoder`, `decoder` or both in a list; default the only one there is, `encoder` for T5 and BART.
        layers: `all` (0…L), `final`, or a list of numbers and `final`.
        decoder_input: What the decoder of an encoder–decoder model reads: its `start` token, or the `text`.
        chat_template: Render every text as the user's turn of a chat.
        with_head: Loads the same weights anew with the language-model head, for `load_with_head`.

    Raises:
        ValueError: A stack or layer does not exist; or the hooks do not see what the model itself calls its hidden
            states (checked on three tokens).
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: Any,
        *,
        name: str = "",
        stack: str | Sequence[str] | None = None,
        layers: LayerSpec = "all",
        decoder_input: str = "start",
        chat_template: bool = False,
        with_head: Callable[[], PreTrainedModel] | None = None,
    ) -> None:
        super().__init__()
        self.name = name or model.config.name_or_path or type(model).__name__
        self.model = cast(PreTrainedModel, model.base_model)
        self.model.requires_grad_(requires_grad=False)
        self.train(mode=False)
        if decoder_input not in {"start", "text"}:
            raise ValueError(f"Unknown decoder input {decoder_input!r}. Set `backbone.decoder_input` to start or text.")
        self.decoder_input = decoder_input
        self._with_head = with_head
        self._stacks = find_stacks(self.model)
        self.stacks = choose_stacks(self._stacks, stack, name=self.name)
        self._pass = ForwardPass(self.model, self._stacks, decoder_input)
        self.layer_spec = layers
        for stack_name in self.stacks:
            self.layers(stack_name)
        longest = longest_input(tokenizer, self.model)
        self.tokenizer = Tokenizer(
            tokenizer,
            max_length=longest - (self.model.config.is_encoder_decoder and decoder_input == "text"),
            chat_template=chat_template,
        )
        pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else self.model.config.pad_token_id
        self.pad_id = 0 if pad is None else pad  # any id will do where there is none: the mask hides it
        for stack_name in self.stacks:
            run = partial(self._pass.run, [stack_name])
            check_hooks(self._stacks[stack_name], run, pad_id=self.pad_id, name=self.name)
        if self.stacks == ("decoder",) and not self.model.config.is_encoder_decoder:
            run = partial(self._pass.run, self.stacks)
            causal = is_causal(self._stacks["decoder"], run, pad_id=self.pad_id)
            self._pass = replace(self._pass, causal=causal)

    @classmethod
    def load(
        cls,
        name: str | None = None,
        *,
        path: str | None = None,
        package: str | None = None,
        revision: str | None = None,
        adapter: str | None = None,
        stack: str | Sequence[str] | None = None,
        layers: LayerSpec = "all",
        dtype: str = "auto",
        device: str = "auto",
        device_map: str | dict[str, Any] | None = None,
        quantization: str | None = None,
        trust_remote_code: bool = False,
        decoder_input: str = "start",
        chat_template: bool = False,
        cache_dir: str | None = None,
    ) -> Self:
        """Load weights and tokenizer and freeze them.

        Args:
            name: Hub name, such as `gpt2`.
            path: Instead of `name`: a local folder, or a GGUF file.
            package: Instead of both: an installed Python package that carries one model (GGUF, or a folder).
            revision: Hub branch, tag or commit.
            adapter: PEFT adapter, a folder or Hub name.
            stack: As in the constructor.
            layers: As in the constructor.
            dtype: `auto` (bfloat16 where the device computes it natively, else float32) or a torch dtype's name.
            device: `auto` (a GPU if there is one), or a torch device.
            device_map: Spread over devices, as in transformers; then `device` is not read.
            quantization: `4bit` or `8bit` (bitsandbytes; expects a GPU).
            trust_remote_code: Run code that comes with the weights.
            decoder_input: As in the constructor.
            chat_template: As in the constructor.
            cache_dir: Where converted GGUF files are kept; default `~/.cache/probes`.

        Raises:
            ValueError: Not exactly one of `name`, `path`, `package`; an adapter that changes nothing; quantization
                without a GPU.
            FileNotFoundError: The path or package has no model.
        """
        source = Source(name=name, path=path, package=package, revision=revision, trust_remote_code=trust_remote_code)
        options: dict[str, Any] = {
            "dtype": dtype,
            "device": device,
            "device_map": device_map,
            "quantization": quantization,
            "cache_dir": cache_dir,
        }
        model, tokenizer = load_pretrained(source, adapter=adapter, **options)
        return cls(
            model,
            tokenizer,
            name=source.title if adapter is None else f"{source.title}+{adapter}",
            stack=stack,
            layers=layers,
            decoder_input=decoder_input,
            chat_template=chat_template,
            with_head=partial(load_causal_lm, source, **options),
        )

    def load_with_head(self) -> PreTrainedModel:
        """The same weights loaded anew with their language-model head: trainable, sharing no memory with this.

        Raises:
            ValueError: The model reads both ways (an encoder, an encoder–decoder), has an adapter, or was wrapped
                without a source to load from.
        """
        if set(self._stacks) != {"decoder"}:
            reason = f"has the stacks {list(self._stacks)}, and only a lone decoder predicts the next token"
            remedy = "Set `backbone` to a causal language model"
        elif getattr(self.model, "_hf_peft_config_loaded", False):
            reason, remedy = "has an adapter already", "Set `backbone.adapter=null`"
        elif self._with_head is None:
            reason = "was wrapped around a live model, so its head cannot be loaded"
            remedy = "Load it by `backbone.name`, `backbone.path` or `backbone.package`, or pass `with_head`"
        else:
            return self._with_head()
        raise ValueError(f"Backbone '{self.name}' {reason}. {remedy}.")

    @override
    def train(self, mode: bool = True) -> Self:
        """Stay in eval mode, whatever Lightning asks for."""
        return super().train(False)

    @property
    def device(self) -> torch.device:
        """Where token ids go."""
        return next(self.model.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """What hidden states are computed in."""
        return self.model.dtype

    @property
    def num_layers(self) -> int:
        """Number of blocks L of the (first) chosen stack."""
        return len(self._stacks[self.stacks[0]].blocks)

    @property
    def hidden_size(self) -> int:
        """Features of one layer."""
        return self._stacks[self.stacks[0]].config.hidden_size

    @property
    def has_final_norm(self) -> bool:
        """Whether layer `final` differs from layer L in the (first) chosen stack."""
        return self._stacks[self.stacks[0]].final_norm is not None

    def fingerprint(self) -> str:
        """Identity by content of weights and configuration; 32 hexadecimal digits, computed anew at each call."""
        return fingerprint(self.model)

    def layers(self, stack: str, *, site: str = "residual", spec: LayerSpec | None = None) -> tuple[Layer, ...]:
        """Names of the layers that `spec` (default the backbone's own) means at a site of a stack."""
        spec = self.layer_spec if spec is None else spec
        num_layers = len(self._stacks[stack].blocks)
        return resolve_layers(spec, num_layers=num_layers, site=site, name=self.name)

    def readings(
        self, poolings: str | Sequence[str] | None = None, sites: str | Sequence[str] = "residual"
    ) -> tuple[Reading, ...]:
        """Every combination of the chosen stacks with sites and poolings.

        Args:
            poolings: Among `last`, `first`, `mean`, `max`; default `last` for a decoder, `mean` for an encoder.
            sites: Among `residual`, `attention`, `mlp`.

        Raises:
            ValueError: An unknown pooling or site, or a site no module of this family yields.
        """
        return combine_readings((self._stacks[name] for name in self.stacks), poolings, sites)

    def tokenize(self, texts: Sequence[str], *, max_length: int | None = None) -> TokenizedTexts:
        """Token ids of texts, cut at their beginning to what the backbone, or `max_length`, allows."""
        return self.tokenizer(texts, max_length=max_length)

    @torch.no_grad()
    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        *,
        readings: Sequence[Reading],
        layers: LayerSpec | None = None,
    ) -> dict[Reading, Tensor]:
        """One pass over a right-padded batch, pooled inside the hooks; blocks past the deepest wanted are not run.

        Args:
            input_ids: int64, shape `(batch, tokens)`.
            attention_mask: 1 where a token is attended, same shape.
            readings: What to read; see `readings()`.
            layers: Which layers; default the backbone's own.

        Returns:
            For each reading a tensor of shape `(layers, batch, features)`: float32 for `mean`, else in the model's
            dtype (a picked token is exact in it).
        """
        input_ids, attention_mask = input_ids.to(self.device), attention_mask.to(self.device)
        wanted = {reading: self.layers(reading.stack, site=reading.site, spec=layers) for reading in readings}
        pooled = self._pass.read(input_ids, attention_mask, wanted)
        return {
            reading: torch.stack([pooled[reading][layer].to(self.device) for layer in own])
            for reading, own in wanted.items()
        }


@contextmanager
def frozen_view(model: PreTrainedModel, tokenizer: Any, **options: Any) -> Iterator[FrozenBackbone]:
    """The live model as a frozen backbone inside the context; gradients and training mode come back behind it.

    Args:
        model: A transformers model, adapters and all, at any point of its training.
        tokenizer: Its tokenizer.
        **options: As for `FrozenBackbone`: name, stack, layers, …
    """
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    training = [module for module in model.modules() if module.training]
    try:
        yield FrozenBackbone(model, tokenizer, **options)
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)
        for module in training:
            module.training = True
