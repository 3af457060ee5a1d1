"""What a run will do and cost, before it is started: texts, tokens, operations, bytes and hours."""

from probes.planning.gpu import GPUS as GPUS
from probes.planning.gpu import Gpu as Gpu
from probes.planning.jobs import Job as Job
from probes.planning.jobs import layer_by_layer_jobs as layer_by_layer_jobs
from probes.planning.jobs import probe_jobs as probe_jobs
from probes.planning.model_shape import ModelShape as ModelShape
from probes.planning.model_shape import shape_of as shape_of
from probes.planning.rates import Rates as Rates
from probes.planning.rates import hours_of as hours_of
from probes.planning.texts import TaskTexts as TaskTexts
from probes.planning.texts import Texts as Texts
from probes.planning.texts import assumed_tasks as assumed_tasks
from probes.planning.texts import counted_tasks as counted_tasks
