"""Did every tuned model learn its task? Answers before and after, as results."""

from __future__ import annotations

from probes.studies.model_set import TunedModels
from probes.studies.tuned_models import MIXTURE
from probes.training.tuning import AnswerScores, TunedModel
from probes.values import Result

METRICS = {"answer_loss_nats": "test_loss", "exact_match": "exact_match", "rouge_l": "rouge_l", "chrf": "chrf"}
"""Metric in `results.csv` → field of `AnswerScores`."""


def learning_results(models: TunedModels, *, seed: int) -> list[Result]:
    """Scores of each task's answers by the base and by each of its controls, and of the mixture's by its model.

    Args:
        models: The tuned models.
        seed: That of the first controls and the experimental model; repeats count up from it.
    """
    results = []
    for task, controls in models.controls.items():
        results += _scores(task, "base", controls[0].base)
        for repeat, model in enumerate(controls):
            results += _scores(task, "control", model.tuned, seed=seed + repeat, model=model)
    if models.experimental is not None:
        results += _scores(MIXTURE, "base", models.experimental.base)
        results += _scores(MIXTURE, "experimental", models.experimental.tuned, seed=seed, model=models.experimental)
    return results


def _scores(
    task: str, role: str, scores: AnswerScores, *, seed: int | None = None, model: TunedModel | None = None
) -> list[Result]:
    results = []
    for metric, field in METRICS.items():
        rows = scores.n_test if field == "test_loss" else scores.n_answered
        note = "not scored" if rows == 0 else "" if model is None else f"{model.steps} steps"
        results.append(
            Result(
                role=role,
                task=task,
                split="test",
                seed=seed,
                metric=metric,
                value=getattr(scores, field),
                n=rows,
                note=note,
            )
        )
    return results
