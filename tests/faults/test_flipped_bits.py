"""A flipped bit is detected wherever it is in a cache: 500 are sampled over all kinds of files that are kept."""

from __future__ import annotations

import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from fault_samples import TEXTS, filled, flip_bit
from tuning_samples import toy_splits

from probes.activations import ActivationStore, ExtractionSettings, certified, fill_stores, open_stores
from probes.backbones import loading, tiny_backbone
from probes.interventions.kept_arrays import KeptArrays
from probes.kept_files import folder_fault, manifest_digest, read_sealed_json
from probes.trainers import default_trainer
from probes.tuning import TunedBackbone, TunedModel, TuningSettings, merge_adapters, tune
from probes.tuning.model_store import ModelFolder, read_scores
from probes.tuning.resume_points import ResumePoints

FLIPS = 500
EFFECTS = {"effects": np.arange(40.0)}
FULL = TuningSettings(learning_rate=1e-2, max_steps=1, batch_size=8, method="full", generate_rows=0)
LORA = TuningSettings(learning_rate=1e-2, max_steps=1, batch_size=8, rank=2, generate_rows=0)


class Cache:
    """A cache with every kind of kept file, and for each kind the way in which the package reads it.

    Args:
        root: An empty folder.
    """

    def __init__(self, root: Path) -> None:
        self.root, self.backbone = root, tiny_backbone()
        self.texts = self.backbone.tokenize(TEXTS)
        stores = open_stores(self.backbone, ExtractionSettings(), root / "activations")
        certified(self.backbone, self.texts, stores)
        filled(self.backbone, root / "activations", pooling=["last", "mean"])
        spread = open_stores(self.backbone, ExtractionSettings(), root / "activations", pooled=False, tokens="subwords")
        fill_stores(self.backbone, self.texts, spread, ExtractionSettings())
        self.effects = KeptArrays(root / "interventions", {"model": "tiny"})
        self.effects.get({"layer": 1}, lambda: EFFECTS)
        self.models = [self._tune(name, settings) for name, settings in (("lora", LORA), ("full", FULL))]
        for model in self.models:
            TunedBackbone(self.backbone, model, root).fingerprint()
        self.merged = merge_adapters(self.backbone, [self._folder(0)], coefficient=0.5, out=root / "adapters")
        self.point = root / "adapters" / "unfinished-key.ckpt"
        ResumePoints("key").save_checkpoint({"steps": list(range(50))}, self.point)
        self.gguf = root.with_name("model.gguf")
        self.gguf.write_bytes(b"GGUF" + bytes(range(250)))
        self.converted = loading.convert_gguf(self.gguf, root)

    def files(self) -> list[Path]:
        """Every kept file; lock files are empty and hold nothing."""
        return sorted(path for path in self.root.rglob("*") if path.is_file() and path.suffix != ".lock")

    def readers(self) -> dict[str, Callable[[Path], bool]]:
        """Pattern of paths → whether the package, when it reads such a file, takes it for whole."""
        return {
            r"activations/\w+/\w{24}\.safetensors": self._reads_shard,
            r"activations/\w+/identity\.json": self._reads_identity,
            r"activations/\w+/certificate\.json": self._reads_certificate,
            r"interventions/\w+\.arrays": self._reads_effects,
            r"adapters/(lora|full)-\w+/scores-\w+\.json": self._reads_scores,
            r"adapters/(lora|full)-\w+/.*": self._reads_model,
            r"adapters/merged-\w+/.*": lambda _: folder_fault(self.merged, key=self.merged.name) is None,
            r"adapters/base/scores-.*\.json": self._reads_base_scores,
            r"adapters/fingerprints/.*": self._reads_fingerprint,
            r"adapters/unfinished-key\.ckpt": self._reads_resume_point,
            r"converted/.*": lambda path: folder_fault(self.converted, key=self.converted.name.split("-")[1]) is None,
        }

    def detects(self, path: Path) -> bool:
        """Whether a reader of the file refuses it."""
        name = path.relative_to(self.root).as_posix()
        reads = next(reads for pattern, reads in self.readers().items() if re.fullmatch(pattern, name))
        return not reads(path)

    def _tune(self, name: str, settings: TuningSettings) -> TunedModel:
        data = toy_splits(16)
        return tune(name, self.backbone, data, settings, trainer=default_trainer, seed=0, cache_dir=self.root)

    def _folder(self, number: int) -> Path:
        folder = self.models[number].folder
        assert folder is not None
        return folder

    def _stores(self) -> list[ActivationStore]:
        settings = ExtractionSettings(pooling=["last", "mean"])
        return list(open_stores(self.backbone, settings, self.root / "activations", tokens="subwords").values())

    def _reads_shard(self, path: Path) -> bool:
        missing = 0
        for store in self._stores():
            store.verify(self.texts.text_ids, self.backbone.layers("decoder"))
            missing += len(store.missing(self.texts.text_ids, self.backbone.layers("decoder")))
        return missing == 0

    def _reads_identity(self, path: Path) -> bool:
        self._stores()
        return path.exists()

    def _reads_certificate(self, path: Path) -> bool:
        stores = open_stores(self.backbone, ExtractionSettings(), self.root / "activations")
        return certified(self.backbone, self.texts, stores) is not None

    def _reads_model(self, path: Path) -> bool:
        model = next(model for model in self.models if model.folder == path.parent)
        return ModelFolder(path.parent, model.key).record() is not None

    def _reads_scores(self, path: Path) -> bool:
        model = next(model for model in self.models if model.folder == path.parent)
        return read_scores(path, key=f"{model.key} {path.stem.removeprefix('scores-')}") is not None

    def _reads_base_scores(self, path: Path) -> bool:
        _, fingerprint, scores_key = path.stem.split("-")
        return read_scores(path, key=f"{fingerprint} {scores_key}") is not None

    def _reads_fingerprint(self, path: Path) -> bool:
        model = next(model for model in self.models if path.name.startswith(f"{model.name}-{model.key}"))
        assert model.folder is not None
        key = f"{model.key} {manifest_digest(model.folder)}"
        return read_sealed_json(path, key=key, remedy="It is computed again.") is not None

    def _reads_effects(self, path: Path) -> bool:
        computed = []
        self.effects.get({"layer": 1}, lambda: computed.append(path) or EFFECTS)
        return not computed

    def _reads_resume_point(self, path: Path) -> bool:
        try:
            return ResumePoints("key").load_checkpoint(path) == {"steps": list(range(50))}
        except ValueError:
            return False


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Cache:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loading, "_write_converted", _write_a_small_model)
        return Cache(tmp_path_factory.mktemp("bits") / "cache")


def _write_a_small_model(file: Path, folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(file.read_bytes())


def test_a_whole_cache_is_read_without_complaint(cache, caplog):
    for path in cache.files():
        assert not cache.detects(path), path
    assert not caplog.messages


def test_every_kind_of_kept_file_is_sampled(cache):
    """A new kind of kept file has to be added to `Cache.readers`, and a kind that is gone to be taken out."""
    names = [path.relative_to(cache.root).as_posix() for path in cache.files()]
    unknown = [name for name in names if not any(re.fullmatch(pattern, name) for pattern in cache.readers())]
    assert unknown == []
    unused = [pattern for pattern in cache.readers() if not any(re.fullmatch(pattern, name) for name in names)]
    assert unused == []


@pytest.mark.parametrize("part", range(10))
def test_every_sampled_bit_is_detected_when_it_is_flipped(cache, part: int, tmp_path):
    """Files are drawn evenly, bits evenly within a file, so that small files are sampled as often as large ones."""
    draw = random.Random(part)
    undetected = []
    for _ in range(FLIPS // 10):
        path = draw.choice(cache.files())
        bit = draw.randrange(8 * path.stat().st_size)
        shutil.copytree(cache.root, tmp_path / "whole", symlinks=True, copy_function=shutil.copy2)
        flip_bit(path, bit)
        if not cache.detects(path):
            undetected.append((path, bit))
        shutil.rmtree(cache.root)
        (tmp_path / "whole").rename(cache.root)
    assert undetected == []
