"""All simulations."""

from calibration import (
    across_tasks,
    bands,
    channels,
    codes,
    geometry,
    interventions,
    label_free,
    layers_and_capacity,
    measures_of_probes,
    nuisances,
    probe_scores,
    probe_tests,
    run_comparisons,
    similarity,
    trees,
    words,
)

MODULES = (
    probe_scores,
    probe_tests,
    words,
    trees,
    codes,
    run_comparisons,
    nuisances,
    similarity,
    geometry,
    across_tasks,
    bands,
    interventions,
    channels,
    measures_of_probes,
    layers_and_capacity,
    label_free,
)

SIMULATIONS = [simulation for module in MODULES for simulation in module.SIMULATIONS]
