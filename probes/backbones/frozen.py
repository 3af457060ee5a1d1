"""The frozen backbone: a transformers model whose layers are read and whose weights are never trained.

`FrozenBackbone` joins the other modules of the package: `loading` fetches the weights, `structure` finds the blocks and
names the layers, `token_batches` turns texts into padded batches of token ids, `hooks` runs the model and pools its
hidden states, and `verification` checks the hooks against the model before anything is read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, Self, TypeVar, cast

import torch
from torch import Tensor
from transformers import PreTrainedModel
from typing_extensions import override

from probes.backbones.alignment import AlignedTexts, Ranges, align
from probes.backbones.editable import EditableBackbone
from probes.backbones.fingerprint import fingerprint
from probes.backbones.hooks import ForwardPass, Spans
from probes.backbones.loading import Source, load_causal_lm, load_pretrained
from probes.backbones.structure import LayerSpec, choose_stacks, combine_readings, find_stacks, resolve_layers
from probes.backbones.token_batches import TokenizedTexts, Tokenizer, longest_input, num_embeddings
from probes.backbones.verification import check_hooks, check_weights, is_causal, reported_hidden_states
from probes.token_values import token_mode
from probes.values import Layer, Reading

_T = TypeVar("_T")


class FrozenBackbone(EditableBackbone):
    """A transformers model with gradients off, always in eval mode, whose layers can be read.

    Layer 0 is the input of the first block, layer k the output of block k on the residual stream, and `"final"` the
    output of the final norm (equal to layer L where a model has none).

    Args:
        model: A transformers model, with or without a head; a head is not run.
        tokenizer: The model's tokenizer; the backbone uses a private copy.
        name: The name in errors and results; default the model's name or path.
        stack: `encoder`, `decoder` or both in a list; default the only stack, and `encoder` for T5 and BART.
        layers: The layers to read by default: `all` (0…L), `final`, or a list of numbers and `final`.
        decoder_input: What the decoder of an encoder–decoder model reads: its `start` token, or the `text`.
        chat_template: Render every text as the user's turn of a chat.
        with_head: Loads a second copy of the weights with the language-model head, for `load_with_head`.
        reload: Loads an equal backbone in another process, which gets this function by `pickle`.

    Raises:
        ValueError: A stack or layer does not exist; weights are NaN or infinite; or the hooks disagree with the model's
            own hidden states, which is checked on three tokens.
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
        reload: Callable[[], FrozenBackbone] | None = None,
    ) -> None:
        super().__init__()
        if decoder_input not in {"start", "text"}:
            raise ValueError(f"Unknown decoder input {decoder_input!r}. Set `backbone.decoder_input` to start or text.")
        self.name = name or model.config.name_or_path or type(model).__name__
        self.model = cast(PreTrainedModel, model.base_model)
        self.model.requires_grad_(requires_grad=False)
        self.train(mode=False)
        self.decoder_input = decoder_input
        self._with_head, self.reload, self._adapter = with_head, reload, cast("str | None", None)

        self._stacks = find_stacks(self.model)
        self.stacks = choose_stacks(self._stacks, stack, name=self.name)
        self.layer_spec = layers
        for stack_name in self.stacks:
            self.layers(stack_name)  # refuses a layer that does not exist before anything is run

        # A decoder that reads the text has its start token in front of it, which takes one position.
        start_tokens = int(self.model.config.is_encoder_decoder and decoder_input == "text")
        max_length = longest_input(tokenizer, self.model) - start_tokens
        table = num_embeddings(self.model)
        self.tokenizer = Tokenizer(tokenizer, max_length=max_length, chat_template=chat_template, num_embeddings=table)
        pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else self.model.config.pad_token_id
        # The mask hides it, so any id that has an embedding serves where there is none.
        self.pad_id = 0 if pad is None or (table is not None and pad >= table) else pad

        self._pass = self._verified_pass()

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
        max_memory: dict[Any, str] | None = None,
        quantization: str | None = None,
        trust_remote_code: bool = False,
        decoder_input: str = "start",
        chat_template: bool = False,
        cache_dir: str | None = None,
        stream: bool = False,
    ) -> FrozenBackbone:
        """Load weights and tokenizer, and freeze them.

        Args:
            name: Hub name, such as `gpt2`.
            path: Instead of `name`: a local folder, or a GGUF file.
            package: Instead of `name` or `path`: an installed Python package that contains one model.
            revision: Hub branch, tag or commit.
            adapter: A PEFT adapter: a folder or a Hub name.
            stack: As in the constructor.
            layers: As in the constructor.
            dtype: `auto` (bfloat16 where the device computes it natively, else float32), or the name of a torch dtype.
            device: `auto` (a GPU if there is one), or a torch device.
            device_map: Spread the model over devices, as in transformers; `device` is then ignored. Modules may be on
                the `cpu` or `disk`, from which accelerate fetches them in every pass.
            max_memory: Most memory of each device for `device_map="auto"`, such as `{0: "20GiB", "cpu": "60GiB"}`.
            quantization: `4bit` or `8bit` (bitsandbytes; requires a CUDA GPU).
            trust_remote_code: Run code that comes with the weights.
            decoder_input: As in the constructor.
            chat_template: As in the constructor.
            cache_dir: Where converted GGUF files are kept; default `~/.cache/probes`.
            stream: Keep the blocks on disk and read one at a time, for a model larger than memory; on the CPU only.

        Raises:
            ValueError: Not exactly one of `name`, `path` and `package` is given; the adapter changes nothing;
                quantization without a GPU; `stream` with an adapter, quantization, a device map, foreign code or a GPU.
            FileNotFoundError: There is no model at the path or in the package.
        """
        source = Source(name=name, path=path, package=package, revision=revision, trust_remote_code=trust_remote_code)
        options: dict[str, Any] = {"dtype": dtype, "device": device, "device_map": device_map, "max_memory": max_memory}
        options |= {"quantization": quantization, "cache_dir": cache_dir}
        wrapped: dict[str, Any] = {"stack": stack, "layers": layers}
        wrapped |= {"decoder_input": decoder_input, "chat_template": chat_template}
        if stream:
            from probes.backbones.streamed.backbone import (  # build on this module
                StreamedBackbone,
                refuse_other_options,
            )

            others = {
                "quantization": quantization,
                "device_map": device_map,
                "max_memory": max_memory,
                "device": device,
            }
            refuse_other_options(adapter=adapter, trust_remote_code=trust_remote_code or None, **others)
            return StreamedBackbone.open(source, dtype=dtype, cache_dir=cache_dir, **wrapped)
        model, tokenizer = load_pretrained(source, adapter=adapter, **options)
        origin = {"path": path, "package": package, "revision": revision, "trust_remote_code": trust_remote_code}
        backbone = cls(
            model,
            tokenizer,
            name=source.title if adapter is None else f"{source.title}+{adapter}",
            with_head=partial(load_causal_lm, source, **options),
            reload=partial(cls.load, name, adapter=adapter, **origin, **options, **wrapped),
            **wrapped,
        )
        backbone._adapter = adapter
        return backbone

    def load_with_head(self, *, with_adapter: bool = False) -> PreTrainedModel:
        """Load a second, trainable copy of the weights with the language-model head; it shares no memory with this one.

        Args:
            with_adapter: Load the adapter that `load` was given, too; if not, a backbone with one is refused.

        Raises:
            ValueError: The model is an encoder or an encoder–decoder, has an adapter, or was wrapped without a source
                to load from.
        """
        if set(self._stacks) != {"decoder"}:
            reason = f"has the stacks {list(self._stacks)}, and only a lone decoder predicts the next token"
            remedy = "Set `backbone` to a causal language model"
        elif with_adapter and self._adapter is not None and self._with_head is not None:
            return cast("Callable[..., PreTrainedModel]", self._with_head)(adapter=self._adapter)
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
        """Stay in eval mode, whatever `mode` a training loop asks for."""
        return super().train(False)

    @property
    def streamed(self) -> bool:
        """Whether the blocks are on disk, so that passes should be run together."""
        return False

    def run_together(self, calls: Sequence[Callable[[], _T]]) -> list[_T]:
        """Call functions that each run the model once; where blocks stay on disk, each is read once for all of them."""
        return [call() for call in calls]

    @property
    def device(self) -> torch.device:
        """Where token ids go."""
        weights = self.model.parameters()
        return next((weight.device for weight in weights if not weight.is_meta), torch.device("cpu"))

    @property
    def dtype(self) -> torch.dtype:
        """The dtype in which hidden states are computed."""
        return self.model.dtype

    @property
    def num_layers(self) -> int:
        """Number of blocks L of the (first) chosen stack."""
        return len(self._first_stack.blocks)

    @property
    def hidden_size(self) -> int:
        """Number of features of a layer."""
        return self._first_stack.config.hidden_size

    @property
    def has_final_norm(self) -> bool:
        """Whether layer `final` differs from layer L in the (first) chosen stack."""
        return self._first_stack.final_norm is not None

    def fingerprint(self) -> str:
        """A digest of weights and configuration, 32 hexadecimal digits, computed anew at each call."""
        return fingerprint(self.model)

    def layers(self, stack: str, *, site: str = "residual", spec: LayerSpec | None = None) -> tuple[Layer, ...]:
        """Names of the layers that `spec`, by default the backbone's `layers`, selects at a site of a stack.

        Raises:
            ValueError: A layer does not exist at this site, or none is selected.
        """
        return resolve_layers(
            self.layer_spec if spec is None else spec,
            num_layers=len(self._stacks[stack].blocks),
            site=site,
            name=self.name,
        )

    def readings(
        self, poolings: str | Sequence[str] | None = None, sites: str | Sequence[str] = "residual"
    ) -> tuple[Reading, ...]:
        """Every combination of the chosen stacks with sites and poolings.

        Args:
            poolings: Some of `last`, `first`, `mean`, `max`; default `last` for a decoder, `mean` for an encoder. Or
                one vector per word: `words.last`, `words.first`, `words.mean`, likewise `spans.…`, or `subwords`.
            sites: Some of `residual`, `attention`, `mlp`.

        Raises:
            ValueError: A pooling or site is unknown, the package does not know which module computes the site in
                this family of models, or words are to be read in a decoder whose input is its start token alone.
        """
        names = [poolings] if isinstance(poolings, str) else poolings or ()
        if any(token_mode(Reading("", "", name)) for name in names) and self._reads_start_alone:
            raise ValueError(
                f"The decoder of '{self.name}' reads its start token alone, so that it has no words. Set "
                "`backbone.decoder_input=text`, or `backbone.stack=encoder`."
            )
        return combine_readings((self._stacks[name] for name in self.stacks), poolings, sites)

    def tokenize(self, texts: Sequence[str], *, max_length: int | None = None) -> TokenizedTexts:
        """Token ids of texts, truncated on the left to `max_length`, at most the longest input of the backbone."""
        return self.tokenizer(texts, max_length=max_length)

    def align(self, texts: Sequence[str], ranges: Sequence[Ranges], *, max_length: int | None = None) -> AlignedTexts:
        """Token ids of texts and the tokens of their words; `ranges` has the characters of each word of each text."""
        return align(self.tokenizer, texts, ranges, max_length=max_length)

    @torch.no_grad()
    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        *,
        readings: Sequence[Reading],
        layers: LayerSpec | None = None,
        spans: Spans | None = None,
    ) -> dict[Reading, Tensor]:
        """Run one pass over a batch and pool inside the hooks; blocks past the deepest wanted layer are not run.

        Args:
            input_ids: int64, shape `(batch, tokens)`, padded on the right.
            attention_mask: 1 where a token is attended, same shape.
            readings: What to read; see `readings()`.
            layers: Which layers; default the backbone's `layers`.
            spans: The tokens of each text's words, for readings of words.

        Returns:
            For each reading a tensor of shape `(layers, batch, features)`: float32 for `mean`, else in the model's
            dtype, in which the value of one token or the maximum over tokens is exact. A reading of words has those of
            all texts, one text after another, for its second axis.
        """
        input_ids, attention_mask = input_ids.to(self.device), attention_mask.to(self.device)
        wanted = {reading: self.layers(reading.stack, site=reading.site, spec=layers) for reading in readings}
        pooled = self._pass.read(input_ids, attention_mask, wanted, spans)
        return {
            # With a device map the blocks, and so their hidden states, are on several devices.
            reading: torch.stack([pooled[reading][layer].to(self.device) for layer in reading_layers])
            for reading, reading_layers in wanted.items()
        }

    @torch.no_grad()
    def reported(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        *,
        readings: Sequence[Reading],
        spans: Spans | None = None,
    ) -> dict[Reading, dict[Layer, Tensor]]:
        """What `forward` should read, pooled from the hidden states that the model itself reports, without hooks.

        Args:
            input_ids: As in `forward`.
            attention_mask: As in `forward`; the model is always given it.
            readings: What to read; those of sublayers are left out, since models report the residual stream only.
            spans: As in `forward`.

        Returns:
            For each reading and reported layer a tensor of shape `(batch, features)`; no layer L where a final norm
            follows it.
        """
        input_ids, attention_mask = input_ids.to(self.device), attention_mask.to(self.device)
        pooled: dict[Reading, dict[Layer, Tensor]] = {}
        for reading in (reading for reading in readings if reading.site == "residual"):
            output = self._pass.run([reading.stack], input_ids, attention_mask, output_hidden_states=True)
            pooler = self._pass.pooler(reading.stack, attention_mask, spans)
            states = reported_hidden_states(self._stacks[reading.stack], output)
            pooled[reading] = {layer: pooler.pool(reading.pooling, hidden) for layer, hidden in states.items()}
        return pooled

    @torch.no_grad()
    def output_of(self, input_ids: Tensor, **options: Any) -> Any:
        """What the (first) stack itself returns for texts without padding, such as with `output_attentions=True`."""
        ids = input_ids.to(self.device)
        return self._pass.run(self.stacks[:1], ids, torch.ones_like(ids), **options)

    @property
    def _reads_start_alone(self) -> bool:
        is_encoder_decoder = self.model.config.is_encoder_decoder
        return is_encoder_decoder and "decoder" in self.stacks and self.decoder_input == "start"

    def _verified_pass(self) -> ForwardPass:
        """The forward pass, after its hooks were checked; a causal decoder is run without a mask."""
        check_weights(self.model, self.name)
        forward = ForwardPass(self.model, self._stacks, self.decoder_input)
        for stack_name in self.stacks:
            run = partial(forward.run, [stack_name])
            check_hooks(self._stacks[stack_name], run, pad_id=self.pad_id, name=self.name)
        if self.stacks != ("decoder",) or self.model.config.is_encoder_decoder:
            return forward
        run = partial(forward.run, self.stacks)
        return replace(
            forward, causal=is_causal(self._stacks["decoder"], run, pad_id=self.pad_id, together=self.run_together)
        )


@contextmanager
def frozen_view(model: PreTrainedModel, tokenizer: Any, **options: Any) -> Iterator[FrozenBackbone]:
    """Read a model in training: within the context it is a frozen backbone, without a copy of its weights.

    On leaving the context, even by an error, every parameter requires gradients again if it did before, and every
    module returns to its training mode.

    Args:
        model: A transformers model, with its adapters if it has any.
        tokenizer: The model's tokenizer.
        **options: Keyword arguments of `FrozenBackbone`, such as `stack` and `layers`.
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
