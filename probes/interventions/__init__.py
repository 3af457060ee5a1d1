"""Interventions: does a model use what a probe can decode? Edits of hidden states, and what to make edits from."""

from probes.backbones.edits import Edit as Edit
from probes.interventions.directions import contrasts as contrasts
from probes.interventions.directions import lda_directions as lda_directions
from probes.interventions.directions import mean_difference_directions as mean_difference_directions
from probes.interventions.directions import of_equal_length as of_equal_length
from probes.interventions.directions import random_directions as random_directions
from probes.interventions.edits import add as add
from probes.interventions.edits import project_out as project_out
from probes.interventions.edits import set_to as set_to
from probes.interventions.erasers import Eraser as Eraser
from probes.interventions.erasers import inlp as inlp
from probes.interventions.erasers import leace as leace
from probes.interventions.erasers import mean_difference as mean_difference
from probes.interventions.erasers import random_subspace as random_subspace
from probes.interventions.kept_arrays import KeptArrays as KeptArrays
from probes.interventions.moments import LabelMoments as LabelMoments
from probes.interventions.pairs import PromptPair as PromptPair
from probes.interventions.pairs import generated_pairs as generated_pairs
from probes.interventions.streams import Streams as Streams
from probes.interventions.streams import erasers_from_layer_on as erasers_from_layer_on
from probes.interventions.streams import erasing as erasing
from probes.interventions.streams import logit_lens as logit_lens
from probes.interventions.streams import token_groups as token_groups
