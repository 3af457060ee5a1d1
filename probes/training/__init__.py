"""Training a task's probes at every layer: banks, exact and minibatch fits, selection, controls, scores."""

from .bank import ProbeBank as ProbeBank
from .datamodule import ActivationDataModule as ActivationDataModule
from .exact import LinearSolution as LinearSolution
from .exact import solve_linear as solve_linear
from .exact_module import ExactProbeModule as ExactProbeModule
from .fit_probes import fit_probes as fit_probes
from .fit_task import fit_task as fit_task
from .layer_probes import LayerProbes as LayerProbes
from .layer_probes import load_probes as load_probes
from .minibatch_module import MinibatchProbeModule as MinibatchProbeModule
from .module import ProbeModule as ProbeModule
from .settings import ProbeSettings as ProbeSettings
from .standardiser import Standardiser as Standardiser
from .task_data import LabelledActivations as LabelledActivations
from .task_data import TaskData as TaskData
from .task_probes import TaskProbes as TaskProbes
from .train_bank import TrainerFactory as TrainerFactory
from .trainer import default_trainer as default_trainer
