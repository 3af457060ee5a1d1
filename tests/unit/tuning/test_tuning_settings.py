from __future__ import annotations

import pytest

from probes.tuning import TuningSettings
from probes.tuning.instruction_tuner import learning_rate_share


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": "prefix"}, r"shifts masks and the last token.*lora, dora, ia3, ln, full"),
        ({"method": "prompt_tuning"}, "puts positions before the text"),
        ({"method": "adalora"}, r"no method 'adalora'.*`tuning\.method`"),
        ({"schedule": "step"}, r"no schedule 'step'\. There are cosine, linear, constant"),
        ({"precision": "float16"}, r"`tuning\.precision`"),
        ({"target_modules": ()}, r"`tuning\.target_modules`"),
        ({"rank": 0}, r"`tuning\.rank` expects a whole number of at least 1; got 0"),
        ({"batch_size": 2.0}, r"`tuning\.batch_size` expects a whole number"),
        ({"max_steps": -1}, r"`tuning\.max_steps` expects a whole number of at least 0"),
        ({"max_epochs": None}, r"`tuning\.max_epochs`"),
        ({"patience": 0}, r"`tuning\.patience`"),
        ({"learning_rate": 0}, r"`tuning\.learning_rate` expects a number above 0"),
        ({"gradient_clip_norm": -1}, r"`tuning\.gradient_clip_norm`"),
        ({"dropout": 1.0}, r"`tuning\.dropout` expects a share"),
        ({"warmup_share": -0.1}, r"`tuning\.warmup_share`"),
        ({"weight_decay": -1}, r"`tuning\.weight_decay`"),
    ],
)
def test_a_field_out_of_range_is_refused_by_its_key(change, message: str):
    with pytest.raises(ValueError, match=message):
        TuningSettings(**change)


def test_steps_are_what_epochs_make_or_the_limit():
    settings = TuningSettings(max_epochs=3, batch_size=16)
    assert settings.total_steps(33) == 9
    assert settings.validation_interval(33) == 3
    assert TuningSettings(max_steps=5, validate_every_n_steps=2).total_steps(1000) == 5
    assert TuningSettings(validate_every_n_steps=2).validation_interval(33) == 2
    assert TuningSettings(max_epochs=0).trains_nothing
    assert TuningSettings(max_steps=0).trains_nothing
    assert not settings.trains_nothing


def test_what_only_scores_does_not_name_the_weights():
    assert TuningSettings(generate_rows=0, checkpoint_every_n_steps=None).identity() == TuningSettings().identity()
    assert TuningSettings(learning_rate=1e-3).identity() != TuningSettings().identity()


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_the_schedule_is_that_of_transformers_after_the_warm_up(schedule: str):
    import torch
    from transformers import get_scheduler

    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = get_scheduler(schedule, optimizer, num_warmup_steps=3, num_training_steps=30)
    for step in range(30):
        ours = learning_rate_share(step, total_steps=30, warmup_share=0.1, schedule=schedule)
        if step >= 3:
            assert ours == pytest.approx(theirs.get_last_lr()[0])
        else:
            assert ours == pytest.approx((step + 1) / 3)
        optimizer.step()
        theirs.step()


def test_a_constant_schedule_stays_at_the_top_after_the_warm_up():
    shares = [learning_rate_share(s, total_steps=10, warmup_share=0.2, schedule="constant") for s in range(10)]
    assert shares == [0.5, *[1.0] * 9]
