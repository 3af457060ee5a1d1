"""GGUF files, read once and kept as a folder that transformers loads ten times as fast."""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
import shutil
import tempfile
from pathlib import Path

import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

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
        stream.seek(0)
        content = hashlib.file_digest(stream, "sha256").hexdigest()[:16]
    folder = cache_dir / "converted" / f"{file.stem}-{content}-transformers-{transformers.__version__}"
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f"{folder.name}.", dir=folder.parent))
        _log.info("Converting '%s', once; later runs load the result.", file.name)
        try:
            _convert(file, partial)
            partial.rename(folder)
        except OSError:
            if not folder.exists():  # else another process was faster
                raise
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return folder


def _convert(file: Path, folder: Path) -> None:
    with contextlib.redirect_stderr(io.StringIO()):  # its progress bar obeys no setting
        read = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name)
    config = read.config
    if hasattr(config, "quantization_config"):
        delattr(config, "quantization_config")
    clean = type(read)._from_config(config)
    clean.load_state_dict(read.state_dict())
    clean.save_pretrained(folder)
    AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name).save_pretrained(folder)
