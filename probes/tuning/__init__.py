"""Tuning of causal language models on prompts and answers, merging of tuned models, and backbones that read them.

Names are imported when they are first used, so that validating the settings does not import PEFT.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from probes.lazy_names import lazy_names

if TYPE_CHECKING:
    from probes.tuning.answer_scores import AnswerScores
    from probes.tuning.examples import TuningExamples, encode_splits
    from probes.tuning.instruction_tuner import InstructionTuner
    from probes.tuning.merge import merge_adapters
    from probes.tuning.tuned_backbone import (
        TunedBackbone,
        TunedModel,
        load_tuned_backbone,
        load_tuned_language_model,
    )
    from probes.tuning.tuning_job import tune
    from probes.tuning.tuning_settings import TuningSettings

__all__ = [
    "AnswerScores",
    "InstructionTuner",
    "TunedBackbone",
    "TunedModel",
    "TuningExamples",
    "TuningSettings",
    "encode_splits",
    "load_tuned_backbone",
    "load_tuned_language_model",
    "merge_adapters",
    "tune",
]

__getattr__ = lazy_names(
    __name__,
    {
        "answer_scores": ("AnswerScores",),
        "examples": ("TuningExamples", "encode_splits"),
        "instruction_tuner": ("InstructionTuner",),
        "merge": ("merge_adapters",),
        "tuning_job": ("tune",),
        "tuned_backbone": (
            "TunedBackbone",
            "TunedModel",
            "load_tuned_backbone",
            "load_tuned_language_model",
        ),
        "tuning_settings": ("TuningSettings",),
    },
)
