from __future__ import annotations

import math

from probes.analysis import result_rows
from probes.studies.layer_by_layer.models import TunedModels, answer_profiles
from probes.tuning import AnswerScores, TunedModel


def scores(loss: float, *, rows: int = 20, answered: int = 8) -> AnswerScores:
    return AnswerScores(
        validation_loss=loss + 100, test_loss=loss, exact_match=0.25, rouge_l=0.5, chrf=0.75,
        n_validation=9, n_test=rows, n_answered=answered,
    )  # fmt: skip


def model(name: str, base: AnswerScores, tuned: AnswerScores, *, steps: int = 7) -> TunedModel:
    return TunedModel(
        name=name, kind="adapter", folder=None, key="", steps=steps, validation_losses={}, base=base, tuned=tuned,
        reused=False,
    )  # fmt: skip


MODELS = TunedModels(
    {
        "a": [model("a", scores(5.0), scores(1.0)), model("a", scores(5.0), scores(1.5))],
        "b": [model("b", scores(6.0), scores(2.0))],
    },
    [model("mixture", scores(5.5), scores(loss), steps=30) for loss in (3.0, 3.5)],
)


def test_every_model_stands_beside_its_base_with_rows_steps_and_seed():
    found = [r for r in result_rows(answer_profiles(MODELS, seed=3)) if r.metric == "answer_loss_nats"]
    assert [(r.task, r.role, r.seed, r.value, r.n, r.note) for r in found] == [
        ("a", "base", None, 5.0, 20, ""),
        ("a", "control", 3, 1.0, 20, "7 steps"),
        ("a", "control", 4, 1.5, 20, "7 steps"),
        ("b", "base", None, 6.0, 20, ""),
        ("b", "control", 3, 2.0, 20, "7 steps"),
        ("mixture", "base", None, 5.5, 20, ""),
        ("mixture", "experimental", 3, 3.0, 20, "30 steps"),
        ("mixture", "experimental", 4, 3.5, 20, "30 steps"),
    ]
    assert {r.split for r in found} == {"test"}


def test_each_score_is_a_metric_of_its_own_with_the_rows_it_rests_on():
    found = {
        r.metric: (r.value, r.n)
        for r in result_rows(answer_profiles(MODELS, seed=0))
        if r.task == "b" and r.role == "base"
    }
    assert found == {
        "answer_loss_nats": (6.0, 20),
        "exact_match": (0.25, 8),
        "rouge_l": (0.5, 8),
        "chrf": (0.75, 8),
    }


def test_a_score_of_no_rows_says_so():
    unscored = scores(math.nan, rows=0, answered=0)
    found = result_rows(answer_profiles(TunedModels({}, [model("mixture", unscored, unscored)]), seed=0))
    assert {(r.n, r.note) for r in found} == {(0, "not scored")}


def test_without_an_experimental_model_there_are_controls_alone():
    assert {r.role for r in result_rows(answer_profiles(TunedModels(MODELS.controls, []), seed=0))} == {
        "base",
        "control",
    }
