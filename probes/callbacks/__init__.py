"""When layers are analysed while Lightning trains; what is analysed lies in `probes.analysis`."""

from probes.callbacks.matrix_analysis import LiveRows as LiveRows
from probes.callbacks.matrix_analysis import MatrixAnalysis as MatrixAnalysis
