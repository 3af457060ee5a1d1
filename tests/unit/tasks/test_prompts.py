from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from probes.tasks import load_local_suite
from probes.tasks.prompts import prompt_renderer, shared_frame

FLAN_MINI = Path(__file__).parents[3].parent / "shared/data/flan_mini"
Rows = Sequence[Mapping[str, Any]]


def test_the_instruction_is_the_unchanged_field_inputs() -> None:
    rows = [{"inputs": " Is it so? ", "targets": "yes"}]
    assert prompt_renderer("t", rows)(rows[0]) == " Is it so? "


def test_an_instruction_without_inputs_is_refused_and_the_fields_are_listed() -> None:
    with pytest.raises(ValueError, match=r"'t' has no field `inputs`.*are text, note\. .*`suite.prompt=raw`"):
        prompt_renderer("t", [{"text": "a", "note": "b", "label": 0}])


def test_raw_appends_only_those_named_fields_that_the_text_lacks() -> None:
    row = {"text": "It rains. Who is wet?", "premise": "It rains.", "options": ["(A) I", "(B) you"], "label": 0}
    assert prompt_renderer("t", [row], prompt="raw")(row) == "It rains. Who is wet?\n(A) I\n(B) you"


def test_raw_without_text_consists_of_the_named_fields() -> None:
    row = {"premise": "It rains.", "hypothesis": "I am wet.", "label": 0}
    assert prompt_renderer("t", [row], prompt="raw")(row) == "It rains.\nI am wet."


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ({"inputs": "a", "targets": "b", "task": "c"}, "has neither `text` nor named fields"),
        ({"text": "a", "explanation": "because b", "label": 0}, "may or may not need `explanation`"),
    ],
)
def test_raw_is_refused_if_it_is_unclear_which_fields_it_needs(row: Mapping[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=f"Task 't' has no raw prompt: it {why}.*`suite.prompt=instruction`"):
        prompt_renderer("t", [row], prompt="raw")


def test_a_template_takes_precedence_over_the_prompt() -> None:
    row = {"text": "a {b}", "year": 1999, "label": 0}
    assert prompt_renderer("t", [row], prompt="raw", template="{{{text}}} in {year}.")(row) == "{a {b}} in 1999."


@pytest.mark.parametrize(
    ("template", "why"),
    [
        ("{txt}", r"names \{txt\}.*Its fields are text"),
        ("{targets}", r"names \{targets\}.*the answer is not a field"),
        ("{text.upper}", r"names \{text.upper\}"),
        ("no placeholder", "names no field at all"),
        ("{text", "is not a template"),
    ],
)
def test_a_malformed_template_or_one_without_fields_of_the_rows_is_refused(template: str, why: str) -> None:
    with pytest.raises(ValueError, match=f"`suite.template` {why}"):
        prompt_renderer("t", [{"text": "a", "targets": "b"}], template=template)


def test_an_unknown_prompt_is_refused_and_the_prompts_are_listed() -> None:
    with pytest.raises(ValueError, match=r"No prompt 'rew'.*instruction or raw"):
        prompt_renderer("t", [{"text": "a"}], prompt="rew")


def test_a_shared_opening_that_stops_inside_a_sentence_is_no_frame() -> None:
    assert shared_frame([f"The aim of {i} is" for i in range(30)]) == ("", "")
    assert shared_frame([f"Read this. The aim of {i} is" for i in range(30)]) == ("Read this. ", "")


def test_few_texts_have_no_frame() -> None:
    assert shared_frame(["Claim: a.\nTrue?", "Claim: b.\nTrue?"]) == ("", "")


@pytest.mark.skipif(not FLAN_MINI.exists(), reason="needs the data set flan_mini")
class TestFlanMini:
    """Raw prompts of the fourteen classification tasks, all of which were read by eye."""

    @pytest.fixture(scope="class")
    @classmethod
    def raw(cls) -> dict[str, list[str]]:
        suite = load_local_suite(FLAN_MINI, prompt="raw")
        return {task.name: list(task.splits["test"].prompts) for task in suite.tasks if task.kind == "classification"}

    def test_all_fourteen_have_a_raw_prompt(self, raw: dict[str, list[str]]) -> None:
        assert len(raw) == 14

    @pytest.mark.parametrize(
        ("task", "question"),
        [
            ("fever", "true or false?"),
            ("formal_fallacies", "deductively valid or invalid?"),
            ("timedial", "Which phrase best fits"),
            ("sst2", "positive or negative?"),
            ("rte", "Answer yes or no"),
        ],
    )
    def test_the_question_is_removed(self, raw: dict[str, list[str]], task: str, question: str) -> None:
        assert not any(question in prompt for prompt in raw[task])

    @pytest.mark.parametrize("task", ["goal_step", "proverbs", "timedial"])
    def test_multiple_choice_tasks_include_their_options(self, raw: dict[str, list[str]], task: str) -> None:
        assert all("\n(A) " in prompt and "\n(B) " in prompt for prompt in raw[task])

    @pytest.mark.parametrize("task", ["cola", "sports", "strategyqa", "trec", "multiemo_en", "winowhy", "metaphor"])
    def test_single_texts_stay_as_they_are(self, raw: dict[str, list[str]], task: str) -> None:
        template = load_local_suite(FLAN_MINI, tasks=[task], template="{text}").tasks[0]
        assert raw[task] == [prompt.strip() for prompt in template.splits["test"].prompts]
