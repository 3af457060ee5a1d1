"""When to analyse while Lightning trains; what is analysed lies in `probes.analysis`."""

from probes.callbacks.matrix_analysis import LiveRows as LiveRows
from probes.callbacks.matrix_analysis import MatrixAnalysis as MatrixAnalysis
from probes.callbacks.matrix_analysis import Report as Report
from probes.callbacks.matrix_analysis import curve_of as curve_of
