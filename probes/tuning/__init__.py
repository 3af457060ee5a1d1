"""Tuning a causal language model on prompts and answers: control models, experimental models, their merges."""

from __future__ import annotations

from probes.tuning.answer_scores import AnswerScores as AnswerScores
from probes.tuning.examples import TuningExamples as TuningExamples
from probes.tuning.instruction_tuner import InstructionTuner as InstructionTuner
from probes.tuning.merge import merge_adapters as merge_adapters
from probes.tuning.tune import tune as tune
from probes.tuning.tuned_backbone import TunedBackbone as TunedBackbone
from probes.tuning.tuned_backbone import TunedModel as TunedModel
from probes.tuning.tuned_backbone import tuned_backbone as tuned_backbone
from probes.tuning.tuning_settings import TuningSettings as TuningSettings
