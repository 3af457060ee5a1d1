"""All simulations."""

from calibration import (
    across_tasks,
    bands,
    codes,
    geometry,
    interventions,
    probe_scores,
    probe_tests,
    run_comparisons,
    similarity,
)

_MODULES = (
    probe_scores,
    probe_tests,
    codes,
    run_comparisons,
    similarity,
    geometry,
    across_tasks,
    bands,
    interventions,
)
SIMULATIONS = [simulation for module in _MODULES for simulation in module.SIMULATIONS]
