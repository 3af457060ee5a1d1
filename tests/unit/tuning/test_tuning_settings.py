from __future__ import annotations

import pytest

from probes.tuning import TuningSettings


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": "prefix"}, r"shifts masks and the last token.*lora, dora, ia3, ln, full"),
        ({"method": "prompt_tuning"}, "adds positions before the text"),
        ({"method": "adalora"}, r"Unknown method 'adalora'.*`tuning\.method`"),
        ({"schedule": "step"}, r"Unknown schedule 'step'\. There are cosine, linear, constant"),
        ({"precision": "float16"}, r"`tuning\.precision`"),
        ({"target_modules": ()}, r"expects target modules; got none.*`tuning\.target_modules`"),
        ({"layers_to_transform": []}, r"`tuning\.layers_to_transform` must be null or .*; got \[\]"),
        ({"layers_to_transform": [3, 3]}, r"different numbers of blocks.*got \[3, 3\]"),
        ({"layers_to_transform": [-1]}, r"from 0; got \[-1\]"),
        ({"layers_to_transform": [0], "method": "ia3"}, r"the method is 'ia3'.*`tuning\.layers_to_transform` to null"),
        ({"rank": 0}, r"`tuning\.rank` must be a whole number of at least 1; got 0"),
        ({"batch_size": 2.0}, r"`tuning\.batch_size` must be a whole number"),
        ({"max_steps": -1}, r"`tuning\.max_steps` must be a whole number of at least 0"),
        ({"max_epochs": None}, r"`tuning\.max_epochs`"),
        ({"patience": 0}, r"`tuning\.patience`"),
        ({"learning_rate": 0}, r"`tuning\.learning_rate` must be a number above 0"),
        ({"gradient_clip_norm": -1}, r"`tuning\.gradient_clip_norm`"),
        ({"dropout": 1.0}, r"`tuning\.dropout` must be in \[0, 1\); got 1.0"),
        ({"warmup_share": -0.1}, r"`tuning\.warmup_share`"),
        ({"weight_decay": -1}, r"`tuning\.weight_decay`"),
    ],
)
def test_an_invalid_field_is_refused_and_the_error_names_its_key(change, message: str):
    with pytest.raises(ValueError, match=message):
        TuningSettings(**change)


def test_the_number_of_steps_follows_from_the_epochs_up_to_the_limit():
    settings = TuningSettings(max_epochs=3, batch_size=16)
    assert settings.total_steps(33) == 9
    assert settings.validation_interval(33) == 3
    assert TuningSettings(max_steps=5, validate_every_n_steps=2).total_steps(1000) == 5
    assert TuningSettings(validate_every_n_steps=2).validation_interval(33) == 2
    assert TuningSettings(max_epochs=0).trains_nothing
    assert TuningSettings(max_steps=0).trains_nothing
    assert not settings.trains_nothing


def test_fields_that_only_affect_scores_are_not_part_of_the_identity():
    assert TuningSettings(generate_rows=0, checkpoint_every_n_steps=None).identity() == TuningSettings().identity()
    assert TuningSettings(learning_rate=1e-3).identity() != TuningSettings().identity()
