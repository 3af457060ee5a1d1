"""Tuning a causal language model on prompts and answers: control models, experimental models, their merges."""

from .evaluation import AnswerScores as AnswerScores
from .examples import TuningExamples as TuningExamples
from .merge import merge_adapters as merge_adapters
from .module import InstructionTuner as InstructionTuner
from .settings import TuningSettings as TuningSettings
from .tune import tune as tune
from .tuned_model import TunedModel as TunedModel
from .tuned_model import tuned_backbone as tuned_backbone
