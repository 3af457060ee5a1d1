"""All simulations."""

from calibration import (
    across_tasks,
    bands,
    codes,
    geometry,
    nuisances,
    probe_scores,
    probe_tests,
    run_comparisons,
    similarity,
)

MODULES = (probe_scores, probe_tests, codes, run_comparisons, nuisances, similarity, geometry, across_tasks, bands)

SIMULATIONS = [
    simulation
    for module in (
        probe_scores,
        probe_tests,
        codes,
        run_comparisons,
        nuisances,
        similarity,
        geometry,
        across_tasks,
        bands,
    )
    for simulation in module.SIMULATIONS
]
