"""Interventions: does a model use what a probe can decode? Edits of hidden states, and what to make edits from."""

from probes.backbones.edits import Edit as Edit
from probes.interventions.edits import add as add
from probes.interventions.edits import project_out as project_out
from probes.interventions.edits import set_to as set_to
from probes.interventions.erasers import Eraser as Eraser
from probes.interventions.erasers import inlp as inlp
from probes.interventions.erasers import leace as leace
from probes.interventions.erasers import mean_difference as mean_difference
from probes.interventions.erasers import random_subspace as random_subspace
from probes.interventions.moments import LabelMoments as LabelMoments
