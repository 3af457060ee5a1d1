"""All simulations."""

from calibration import (
    across_tasks,
    bands,
    codes,
    geometry,
    probe_scores,
    probe_tests,
    run_comparisons,
    similarity,
    trees,
)

SIMULATIONS = [
    simulation
    for module in (probe_scores, probe_tests, trees, codes, run_comparisons, similarity, geometry, across_tasks, bands)
    for simulation in module.SIMULATIONS
]
