"""Layers of a model in tuning: watched as they change, without changing how they change."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tuning_samples import toy_splits

from probes.analysis import LabelCKA, ReferenceCKA, SpectralMeasure
from probes.backbones import tiny_backbone
from probes.callbacks import LiveRows, MatrixAnalysis
from probes.training.trainer import default_trainer
from probes.training.tuning import TuningSettings, tune

pytestmark = pytest.mark.filterwarnings("ignore:Unsupported layer type:UserWarning")
SETTINGS = TuningSettings(learning_rate=1e-2, max_steps=6, batch_size=8, rank=4, dropout=0.1, generate_rows=0)
TEXTS = tuple(f"{word} so {number}:" for word in ("cat", "a bird") for number in range(8))


def tuned_with(cache_dir, *callbacks):
    backbone = tiny_backbone()
    done = tune(
        "toy",
        backbone,
        toy_splits(),
        SETTINGS,
        trainer=default_trainer,
        seed=0,
        cache_dir=cache_dir,
        callbacks=callbacks,
    )
    assert done.folder is not None
    return load_file(done.folder / "adapter_model.safetensors")


@pytest.fixture(scope="module")
def watched(tmp_path_factory):
    live = LiveRows(tiny_backbone(), {"toy": TEXTS}, {"toy": torch.arange(16) % 2})
    measures = {"a": LabelCKA(permutations=0), "b": SpectralMeasure(), "c": ReferenceCKA(permutations=0)}
    analysis = MatrixAnalysis(measures, live=live, every_n_steps=3, specificity_of=["*"], segments_of=["*"])
    return analysis, tuned_with(tmp_path_factory.mktemp("watched"), analysis)


def test_each_due_step_is_a_column_of_each_measure(watched):
    matrices = {matrix.quantity: matrix for matrix in watched[0].findings().matrices}
    assert set(matrices) == {"live/toy/label_cka", "live/toy/effective_rank", "live/toy/reference_cka"}
    assert matrices["live/toy/label_cka"].tasks == ("step_0", "step_3", "step_6")


def test_layers_start_as_the_base_and_move_away(watched):
    (matrix,) = [m for m in watched[0].findings().matrices if m.quantity == "live/toy/reference_cka"]
    known = np.isfinite(matrix.values).all(1)
    assert known.sum() >= 3
    np.testing.assert_allclose(matrix.values[known, 0], 1, atol=1e-6)
    assert (matrix.values[known, 2] < 1 - 1e-4).any()


def test_watching_does_not_change_what_is_learnt(watched, tmp_path):
    alone = tuned_with(tmp_path)
    assert alone.keys() == watched[1].keys()
    for name, weight in alone.items():
        assert torch.equal(weight, watched[1][name])


def test_without_a_step_or_without_rows_nothing_is_read(tmp_path):
    analysis = MatrixAnalysis({"b": SpectralMeasure()}, every_n_steps=1)
    tuned_with(tmp_path, analysis)
    assert analysis.findings().matrices == []


def test_a_module_without_language_model_and_an_impossible_interval_are_refused():
    live = LiveRows(tiny_backbone(), {"toy": TEXTS}, {})
    analysis = MatrixAnalysis({}, live=live, every_n_steps=1)
    module = type("Plain", (torch.nn.Linear,), {})(2, 2)
    trainer = type("Trainer", (), {"global_step": 0, "is_global_zero": True})()
    with pytest.raises(ValueError, match=r"got Plain\."):
        analysis.on_train_start(trainer, module)
    with pytest.raises(ValueError, match=r"`callbacks\.every_n_steps` wants at least 1"):
        MatrixAnalysis({}, every_n_steps=0)
    other_rank = type("Trainer", (), {"global_step": 0, "is_global_zero": False})()
    analysis.on_train_start(other_rank, module)
