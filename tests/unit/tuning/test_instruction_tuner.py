from __future__ import annotations

import logging
import math
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch
from torch.nn.utils import clip_grad_norm_
from transformers import get_scheduler
from tuning_samples import encoded, labelled, tuned_model

from probes.answers.answer_model import AnswerBatch
from probes.backbones import tiny_backbone
from probes.seeds import derive_seed
from probes.trainers import default_trainer
from probes.tuning import InstructionTuner, TuningSettings, instruction_tuner
from probes.tuning.adapters import quiet_tuning, trainable
from probes.tuning.examples import StepBatches, TuningDataModule
from probes.tuning.instruction_tuner import StepProgress, learning_rate_schedule

EXAMPLES = encoded(tiny_backbone(), rows=20)
WHOLE = 10**6


def tuner(*, moved: bool = False, total_steps: int = 5, **settings) -> InstructionTuner:
    chosen = TuningSettings(**settings)
    module = InstructionTuner(tuned_model(chosen, moved=moved), chosen, total_steps=total_steps, seed=3)
    module.manual_backward = lambda loss: loss.backward()
    return module


def fitted(**settings) -> InstructionTuner:
    module = tuner(batch_size=8, **settings)
    del module.manual_backward
    data = TuningDataModule(EXAMPLES, 8, total_steps=module.total_steps, seed=3)
    with quiet_tuning():
        trainer = default_trainer(max_epochs=1, limit_val_batches=0)
        trainer.fit(module, datamodule=data)
    assert trainer.global_step == module.total_steps
    return module


def gradients(module: InstructionTuner) -> dict[str, torch.Tensor]:
    return {name: parameter.grad for name, parameter in trainable(module.model).items()}


@pytest.mark.parametrize("tokens", [1, 60, 150])
def test_gradients_of_micro_batches_add_up_to_the_gradient_of_the_whole_batch(tokens: int):
    whole = tuner(moved=True, dropout=0.0, micro_batch_tokens=WHOLE)
    divided = tuner(moved=True, dropout=0.0, micro_batch_tokens=tokens)
    assert whole.accumulate_gradient(EXAMPLES) == pytest.approx(divided.accumulate_gradient(EXAMPLES), rel=1e-6)
    expected = gradients(whole)
    assert all(gradient.abs().max() > 0 for gradient in expected.values())
    for name, gradient in gradients(divided).items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-7)


def test_the_gradient_is_that_of_the_mean_over_all_answer_tokens():
    module = tuner(moved=True, dropout=0.0, micro_batch_tokens=40)
    module.accumulate_gradient(EXAMPLES)
    ours = {name: gradient.clone() for name, gradient in gradients(module).items()}
    module.zero_grad()
    module.model(AnswerBatch.of(EXAMPLES, device=torch.device("cpu"))).mean().backward()
    for name, gradient in gradients(module).items():
        torch.testing.assert_close(ours[name], gradient, rtol=1e-4, atol=1e-7)


def share_of_full_rate(step: int, total_steps: int, settings: TuningSettings) -> float:
    """The learning rate of a step, from its definition, relative to the full one."""
    warmup = math.ceil(settings.warmup_share * total_steps)
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / (total_steps - warmup)
    return {"cosine": (1 + math.cos(math.pi * progress)) / 2, "linear": 1 - progress, "constant": 1}[settings.schedule]


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
@pytest.mark.parametrize(
    ("warmup_share", "total_steps"), [(0.0, 6), (0.1, 30), (0.03, 7), (0.5, 9), (0.9, 3), (0.5, 1)]
)
def test_the_learning_rate_rises_linearly_and_then_follows_its_schedule(schedule, warmup_share, total_steps):
    settings = TuningSettings(schedule=schedule, warmup_share=warmup_share, learning_rate=0.02)
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=settings.learning_rate)
    scheduler, rates = learning_rate_schedule(optimizer, settings, total_steps=total_steps), []
    for _ in range(total_steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    expected = [0.02 * share_of_full_rate(step, total_steps, settings) for step in range(total_steps)]
    assert rates == pytest.approx(expected, rel=1e-12)
    assert min(rates) > 0


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_after_the_warm_up_the_schedule_is_that_of_transformers(schedule: str):
    settings = TuningSettings(schedule=schedule, warmup_share=0.1, learning_rate=1.0)
    ours, theirs = (torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=1.0) for _ in range(2))
    schedulers = [
        learning_rate_schedule(ours, settings, total_steps=30),
        get_scheduler(schedule, theirs, num_warmup_steps=3, num_training_steps=30),
    ]
    for step in range(30):
        if step >= 3:
            assert ours.param_groups[0]["lr"] == pytest.approx(theirs.param_groups[0]["lr"], rel=1e-12)
        for optimizer, scheduler in zip((ours, theirs), schedulers, strict=True):
            optimizer.step()
            scheduler.step()


def plain_loop(settings: TuningSettings, total_steps: int) -> dict[str, torch.Tensor]:
    """A training loop written with transformers alone: all positions scored, prompts labelled -100."""
    model = tuned_model(settings).model.train()
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay)
    batches = StepBatches(EXAMPLES, 8, total_steps=total_steps, seed=3)
    for step, batch in enumerate(batches):
        optimizer.zero_grad()
        model(**labelled(batch)).loss.backward()
        clip_grad_norm_(parameters, settings.gradient_clip_norm)
        optimizer.param_groups[0]["lr"] = settings.learning_rate * share_of_full_rate(step, total_steps, settings)
        optimizer.step()
    return {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}


def test_a_few_steps_give_the_weights_of_a_plain_training_loop():
    settings = {"dropout": 0.0, "learning_rate": 3e-3, "micro_batch_tokens": 70, "weight_decay": 0.1}
    settings["gradient_clip_norm"] = 0.02
    ours = trainable(fitted(**settings).model.model)
    theirs = plain_loop(TuningSettings(**settings), total_steps=5)
    start = trainable(tuned_model(TuningSettings(**settings)).model)
    assert ours.keys() == theirs.keys()
    for name, weight in ours.items():
        assert (weight - start[name]).abs().max() > 1e-3
        torch.testing.assert_close(weight.detach(), theirs[name], rtol=0, atol=2e-5)


def test_dropout_is_on_and_depends_only_on_the_seed_and_the_step():
    module = tuner(moved=True, dropout=0.3)
    first = module.accumulate_gradient(EXAMPLES)
    torch.rand(7)
    assert module.accumulate_gradient(EXAMPLES) == first
    assert tuner(moved=True, dropout=0.0).accumulate_gradient(EXAMPLES) != first
    module._trainer = SimpleNamespace(global_step=1)
    later = module.accumulate_gradient(EXAMPLES)
    assert later != first
    module.seed = derive_seed(3, "other")
    assert module.accumulate_gradient(EXAMPLES) not in {first, later}


def test_when_memory_runs_out_micro_batches_are_halved_and_the_step_is_repeated(caplog):
    module, sizes = tuner(moved=True, dropout=0.0, micro_batch_tokens=WHOLE), []
    forward = module.model.forward

    def small_memory(batch):
        sizes.append(batch.input_ids.numel())
        if batch.input_ids.numel() > 90:
            raise torch.OutOfMemoryError("simulated")
        return forward(batch)

    module.model.forward = small_memory
    with caplog.at_level(logging.WARNING):
        loss = module.accumulate_gradient(EXAMPLES)
    whole = tuner(moved=True, dropout=0.0, micro_batch_tokens=WHOLE)
    assert loss == pytest.approx(whole.accumulate_gradient(EXAMPLES), rel=1e-6)
    for name, gradient in gradients(module).items():
        torch.testing.assert_close(gradient, gradients(whole)[name], rtol=1e-4, atol=1e-7)
    assert sizes[0] > 3 * 90
    assert module.micro_batch_tokens <= 90
    assert "Memory ran out: from now on" in caplog.text
    assert "optimizer step still has 16 sequences" in caplog.text
    assert module.settings.batch_size == 16


def test_tuning_ends_if_a_single_sequence_does_not_fit_in_memory():
    module = tuner(micro_batch_tokens=60)
    module.model.forward = lambda batch: (_ for _ in ()).throw(torch.OutOfMemoryError("simulated"))
    with pytest.raises(torch.OutOfMemoryError, match=r"single sequence\. Set `tuning\.max_length` smaller"):
        module.accumulate_gradient(EXAMPLES)


def test_a_loss_that_is_not_finite_ends_the_tuning():
    module = tuner(batch_size=8)
    del module.manual_backward
    module.model.forward = lambda batch: sum(p.sum() for p in trainable(module.model).values()) * float("nan")
    with (
        quiet_tuning(),
        pytest.raises(FloatingPointError, match=r"loss is nan at step 0.*`tuning\.learning_rate` lower"),
    ):
        default_trainer(max_epochs=1).fit(module, datamodule=TuningDataModule(EXAMPLES, 8, total_steps=2, seed=0))


def test_a_checkpoint_holds_only_trainable_weights():
    module = fitted(max_epochs=1)
    checkpoint = {"state_dict": module.state_dict()}
    module.on_save_checkpoint(checkpoint)
    assert checkpoint["state_dict"].keys() == trainable(module).keys()
    assert all("lora" in name for name in checkpoint["state_dict"])
    assert module.tokens == sum(e.num_inputs for e in EXAMPLES) + sum(
        e.num_inputs for batch in list(StepBatches(EXAMPLES, 8, total_steps=5, seed=3))[3:] for e in batch
    )


def test_the_progress_counts_optimizer_steps_and_those_made_before(monkeypatch):
    shown: list[object] = []

    @contextmanager
    def counted(what: str, *, total: int, done: int):
        shown.append((what, total, done))
        yield lambda: shown.append("step")
        shown.append("closed")

    monkeypatch.setattr(instruction_tuner, "counted", counted)
    progress, trainer = StepProgress("steps on 'sst2'", total=5), SimpleNamespace(global_step=2)
    progress.on_train_start(trainer, None)
    for step in (2, 3, 3, 4):  # gradients were accumulated, then a step was made
        trainer.global_step = step
        progress.on_train_batch_end(trainer, None, None, None, 0)
    progress.on_train_end(trainer, None)
    assert shown == [("steps on 'sst2'", 5, 2), "step", "step", "closed"]
