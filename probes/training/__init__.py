"""Training a task's probes at every layer: banks, exact and minibatch fits, selection, controls and scores.

Most users need `fit_probes` (plain tensors) or `fit_task` (a `TaskData`) only, and `save_probes` and `load_probes`.
"""

from probes.trainers import TrainerFactory as TrainerFactory
from probes.trainers import default_trainer as default_trainer
from probes.training.bank.minibatch_module import MinibatchProbeModule as MinibatchProbeModule
from probes.training.bank.probe_bank import ProbeBank as ProbeBank
from probes.training.bank.probe_module import ProbeModule as ProbeModule
from probes.training.bank.probe_module import Standardiser as Standardiser
from probes.training.bank.probe_module import with_unit_size as with_unit_size
from probes.training.best_layers import possibly_best as possibly_best
from probes.training.data_module import ActivationDataModule as ActivationDataModule
from probes.training.fit_task import TaskProbes as TaskProbes
from probes.training.fit_task import fit_probes as fit_probes
from probes.training.fit_task import fit_task as fit_task
from probes.training.layer_probes import LayerProbes as LayerProbes
from probes.training.linear_solver.solve import LinearSolution as LinearSolution
from probes.training.linear_solver.solve import solve_linear as solve_linear
from probes.training.linear_solver.solver_module import ExactProbeModule as ExactProbeModule
from probes.training.probe_settings import ProbeSettings as ProbeSettings
from probes.training.ragged import RaggedRows as RaggedRows
from probes.training.saved_probes import load_probes as load_probes
from probes.training.saved_probes import save_probes as save_probes
from probes.training.streamed_rows import RowSource as RowSource
from probes.training.streamed_rows import StreamedRows as StreamedRows
from probes.training.streamed_rows import TensorRows as TensorRows
from probes.training.task_data import LabelledActivations as LabelledActivations
from probes.training.task_data import TaskData as TaskData
from probes.training.train_bank import is_exact as is_exact
