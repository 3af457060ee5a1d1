from __future__ import annotations

import gzip
import json
import logging
import re
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from probes.tasks import table_suite
from probes.tasks.splits import draw_splits

STARS = {"body": [f"Review {i} is here." for i in range(60)], "stars": [1 + i % 3 for i in range(60)]}
SHARES = {"train": 0.6, "validation": 0.2, "test": 0.2}


def stars(**changes: Any) -> pd.DataFrame:
    return pd.DataFrame({**STARS, **changes})


def load(table: Any, **settings: Any) -> Any:
    (task,) = table_suite(table, **{"text": "body", "label": "stars", **settings}).tasks
    return task


def sizes(task: Any) -> dict[str, int]:
    return {split: len(rows) for split, rows in task.splits.items()}


def written(frame: pd.DataFrame, folder: Path, ending: str) -> Path:
    file = folder / f"reviews{ending}"
    if ending.startswith(".csv"):
        frame.to_csv(file, index=False)
    elif ending == ".tsv":
        frame.to_csv(file, index=False, sep="\t")
    elif ending == ".parquet":
        frame.to_parquet(file)
    else:
        frame.to_json(file, orient="records", lines=True)
    return file


class TestReading:
    @pytest.mark.parametrize("ending", [".csv", ".csv.gz", ".tsv", ".parquet", ".jsonl"])
    def test_every_format_gives_the_task_of_the_data_frame(self, tmp_path: Path, ending: str) -> None:
        file = written(stars(), tmp_path, ending)
        task, same = load(file), load(stars(), name="reviews")
        assert (task.name, task.source, same.source) == ("reviews", str(file), "the data frame")
        assert (task.kind, task.labels, task.splits) == (same.kind, same.labels, same.splits)
        assert (task.kind, task.labels, sizes(task)) == (
            "classification",
            ("1", "2", "3"),
            {"train": 36, "validation": 12, "test": 12},
        )
        for rows in task.splits.values():
            numbers = [int(prompt.split()[1]) for prompt in rows.prompts]
            assert [1 + number % 3 for number in numbers] == [1 + label for label in rows.labels]

    def test_words_such_as_NA_in_a_csv_file_are_texts_and_classes(self, tmp_path: Path) -> None:  # noqa: N802
        frame = pd.DataFrame({"body": ["NA", "null", *(f"t {i}" for i in range(18))], "stars": ["NA", "nan"] * 10})
        task = load(written(frame, tmp_path, ".csv"))
        assert task.labels == ("NA", "nan")
        assert {"NA", "null"} <= {prompt for rows in task.splits.values() for prompt in rows.prompts}

    def test_a_text_with_commas_quotes_and_line_breaks_is_read_whole(self, tmp_path: Path) -> None:
        texts = [f'He said: "{i}, no"\nand left.' for i in range(20)]
        frame = pd.DataFrame({"body": texts, "stars": [0, 1] * 10})
        found = load(written(frame, tmp_path, ".csv"))
        assert {prompt for rows in found.splits.values() for prompt in rows.prompts} == set(texts)

    def test_a_template_may_name_several_columns_and_a_missing_one_is_empty(self) -> None:
        frame = stars(title=[None, *(f"T{i}" for i in range(1, 60))])
        task = load(frame, text="{title}: {body}")
        prompts = {prompt for rows in task.splits.values() for prompt in rows.prompts}
        assert {": Review 0 is here.", "T7: Review 7 is here."} <= prompts

    def test_the_instruction_is_a_template_of_its_own(self) -> None:
        task = load(stars(), instruction="{body} How many stars?", prompt="instruction")
        assert all(prompt.endswith("here. How many stars?") for prompt in task.splits["test"].prompts)

    @pytest.mark.parametrize(
        ("name", "content", "why"),
        [
            ("no.csv", None, r"No file '.*no\.csv'\. Set `suite\.path` to a file that ends in \.csv, \.tsv"),
            ("a.xlsx", b"1", r"a\.xlsx ends in none of \.csv, \.tsv, \.parquet, \.jsonl"),
            ("a.csv", b"", r"a\.csv cannot be read as csv: No columns"),
            ("a.csv", b"body,stars\n", r"a\.csv has no rows"),
            ("a.csv", b"body,stars\na,1\nb,2,3\n", r"a\.csv cannot be read as csv: .*line 3"),
            ("a.csv", b"body,stars\nno, a,1\nno, b,2\n", r"a\.csv has rows with more fields than its header, which ha"),
            ("a.csv", b'body,stars\n"a,1\n', r"a\.csv cannot be read as csv: .*EOF inside string"),
            ("a.jsonl", b'{"body": "a", "body": "b"}\n', r"a\.jsonl, line 1: the field `body` stands there twice"),
            ("a.jsonl", b'{"body": "a"}\n\n{"body": "b"}\n', r"a\.jsonl, line 2: not JSON but empty"),
            ("a.csv", b"body,stars\ncaf\xe9,1\n", r"a\.csv is not UTF-8 text"),
            ("a.jsonl", b'{"body": "a", "stars": 1}\n{"body": \n', r"a\.jsonl, line 2: not JSON"),
            ("a.jsonl", b"[1]\n", r"a\.jsonl, line 1: an object of fields was expected; got list"),
            ("a.parquet", b"PAR0", r"a\.parquet cannot be read as parquet"),
            ("a.csv.gz", b"body", r"a\.csv\.gz cannot be read as csv"),
        ],
    )
    def test_a_file_that_cannot_be_read_is_refused(
        self, tmp_path: Path, name: str, content: bytes | None, why: str
    ) -> None:
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises((ValueError, FileNotFoundError), match=why):
            load(tmp_path / name)


class TestLabels:
    @pytest.mark.parametrize(
        ("values", "settings", "kind", "labels", "first"),
        [
            (["good", "bad"], {}, "classification", ("bad", "good"), 1),
            ([True, False], {}, "classification", ("false", "true"), 1),
            ([10, 9], {}, "classification", ("9", "10"), 1),
            ([4.0, 5.0], {}, "classification", ("4", "5"), 0),
            (["010", "09"], {}, "classification", ("010", "09"), 0),
            ([0, 1], {"labels": ["no", "yes"]}, "classification", ("no", "yes"), 0),
            ([2, 1], {"labels": [2, 1]}, "classification", ("2", "1"), 0),
            (["b", "a"], {"labels": ["b", "a"], "ordered": True}, "classification", ("b", "a"), 0),
            ([2, 1], {"kind": "ordinal"}, "classification", ("1", "2"), 1),
            ([0.25, 1.5], {}, "regression", (), 0.25),
            ([1, 2], {"kind": "regression"}, "regression", (), 1.0),
            ([["x"], ["y", "x"]], {}, "multilabel", ("x", "y"), (1, 0)),
            (["one", "two"], {"kind": "generation"}, "generation", (), None),
        ],
    )
    def test_labels_are_understood_by_their_type(
        self, values: list[Any], settings: Any, kind: str, labels: Any, first: Any
    ) -> None:
        task = load(stars(stars=values * 30, split=["train"] * 40 + ["test"] * 20), split="split", **settings)
        number = int(task.splits["test"].prompts[0].split()[1])
        assert number % 2 == 0
        assert (task.kind, task.labels, task.splits["test"].labels[0]) == (kind, labels, first)

    def test_classes_of_the_kind_ordinal_are_in_order(self) -> None:
        assert load(stars(stars=[1, 2, 3] * 20), kind="ordinal").ordered
        assert not load(stars(stars=[1, 2, 3] * 20)).ordered

    def test_a_csv_file_gives_the_same_kinds_though_it_has_no_types(self, tmp_path: Path) -> None:
        for values, kind in (([1, 2], "classification"), ([0.5, 1.25], "regression"), (["a", "b"], "classification")):
            file = written(stars(stars=values * 30), tmp_path, ".csv")
            assert load(file).kind == load(stars(stars=values * 30)).kind == kind

    def test_integers_that_pandas_stores_as_floats_because_one_is_missing_stay_classes(self) -> None:
        frame = stars(stars=[None, *STARS["stars"][1:]])
        assert frame["stars"].dtype == float
        assert load(frame, incomplete_rows="drop").labels == ("1", "2", "3")

    @pytest.mark.parametrize(
        ("changes", "settings", "why"),
        [
            ({"stars": [1, "good"] * 30}, {}, r"column 'stars' are of mixed types: number \(row 1\), string \(row 2\)"),
            ({"stars": range(60)}, {}, r"60 distinct whole numbers, too many .*`suite\.kind` to classification or reg"),
            (
                {"stars": ["rare", *"ab" * 29, "a"]},
                {},
                r"the data frame, row 1, column 'stars': 'rare' is the label of this row only, as 1 of 3 labels are",
            ),
            ({"stars": ["a", "b"] * 30}, {"labels": ["a"]}, r"row 2, .*label 'b' is none of `suite\.labels`: a \(ind"),
            ({"stars": [0, 2] * 30}, {"labels": ["a", "b"]}, r"row 1, .*label '0' is none of `suite\.labels`: a, b"),
            ({"stars": ["1", "x"] * 30}, {"kind": "regression"}, r"row 2, column 'stars': label 'x' is not a number"),
            ({}, {"kind": "multilabel"}, r"row 1, column 'stars': label 1 is not a list of labels"),
            ({"stars": [1.5, 2.0] * 30}, {"kind": "classification"}, r"row 1, .*1\.5 is not a word, a whole number"),
            (
                {},
                {"labels": [1, 1, 2, 3]},
                r"`suite\.labels` must be a list of different names, or null; got \[1, 1",
            ),
            ({"body": [["a"], {"b": 1}] * 30}, {}, r"prompt of the data frame, row 2 cannot be made: .*got \{'b': 1\}"),
            ({}, {"kind": "clasification"}, r"no kind 'clasification'\. Set `suite\.kind` to one of auto, class"),
            ({"stars": ["a", "b"] * 30}, {"ordered": True}, r"labels of the data frame, column 'stars' are words\. Se"),
            ({"stars": [1.5, 2.5] * 30}, {"ordered": True}, r"'table' is declared `ordered` but is of kind regress"),
        ],
    )
    def test_labels_that_do_not_fit_are_refused_with_row_column_and_key(
        self, changes: Any, settings: Any, why: str
    ) -> None:
        with pytest.raises(ValueError, match=why):
            load(stars(**changes), **settings)

    def test_numbers_and_words_in_one_column_of_a_csv_file_are_mixed_types_unless_they_are_declared(
        self, tmp_path: Path
    ) -> None:
        file = written(stars(stars=[1, "n/a"] * 30), tmp_path, ".csv")
        with pytest.raises(ValueError, match=r"reviews\.csv, column 'stars' are of mixed types: number \(row 1\), str"):
            load(file)
        assert load(file, kind="classification").labels == load(file, labels=[1, "n/a"]).labels == ("1", "n/a")


class TestColumnsAndRows:
    @pytest.mark.parametrize(
        ("settings", "why"),
        [
            (
                {"label": "star"},
                r"has no column 'star'\. Did you mean 'stars'\? It has body, stars\. Set `suite\.label`",
            ),
            ({"text": "review"}, r"`suite\.text` names \{review\} for task 'table'\. Its fields are body "),
            ({"text": "stars"}, r"`suite\.text` names \{stars\}"),
            ({"template": "{x}"}, r"`suite\.template` names \{x\}"),
            ({"prompt": "instruction"}, r"'table' has no instruction\. Set `suite\.instruction`"),
            ({"split": "part"}, r"no column 'part'.*Set `suite\.split` among these"),
            ({"group": "user"}, r"no column 'user'.*Set `suite\.group` among these"),
            ({"test_share": 1.0}, r"`suite\.test_share` must lie between 0 and 1; got 1\.0"),
            ({"test_share": 0.8}, r"`suite\.validation_share`=0\.2 and `suite\.test_share`=0\.8 leave no rows"),
            ({"incomplete_rows": "keep"}, r"Set `suite\.incomplete_rows` to refuse or drop; got 'keep'"),
        ],
    )
    def test_what_the_table_lacks_is_named_with_what_it_has_and_the_key(self, settings: Any, why: str) -> None:
        with pytest.raises(ValueError, match=why):
            load(stars(), **settings)

    def test_a_row_without_text_or_label_is_refused_or_dropped_with_a_count(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        empty_text = stars(body=["", "  ", *STARS["body"][2:]])
        with pytest.raises(ValueError, match=r"row 1, column 'body': there is no text, as in 2 of 60 rows.*=drop"):
            load(empty_text)
        no_label = stars(stars=[*STARS["stars"][:-1], None])
        with pytest.raises(ValueError, match=r"row 60, column 'stars': there is no label, as in 1 of 60 rows"):
            load(no_label)
        both = stars(body=["", *STARS["body"][1:]], stars=[*STARS["stars"][:-1], None])
        assert sum(sizes(load(both, incomplete_rows="drop")).values()) == 58
        assert "1 rows without text and 1 without label are left out; 58 of 60 rows stay" in caplog.text

    def test_two_columns_of_one_name_are_refused(self) -> None:
        frame = stars()
        frame.columns = ["body", "body"]
        with pytest.raises(ValueError, match=r"the data frame has several columns of one name: body, body"):
            load(frame)


class TestDeclaredSplits:
    def test_a_column_decides_and_aliases_are_understood(self) -> None:
        names = ["train"] * 30 + ["Dev"] * 12 + ["test"] * 18
        task = load(stars(part=names), split="part")
        assert sizes(task) == {"train": 30, "validation": 12, "test": 18}
        assert task.splits["validation"].prompts == tuple(STARS["body"][30:42])

    def test_missing_validation_rows_are_drawn_from_train_without_breaking_groups(self) -> None:
        frame = stars(part=["train"] * 40 + ["test"] * 20, user=[i // 4 for i in range(60)])
        task = load(frame, split="part", group="user", validation_share=0.3)
        assert sizes(task) == {"train": 28, "validation": 12, "test": 20}
        users = {s: {int(prompt.split()[1]) // 4 for prompt in task.splits[s].prompts} for s in task.splits}
        assert not users["train"] & users["validation"]

    def test_a_value_that_is_no_split_is_refused(self) -> None:
        with pytest.raises(ValueError, match=r"row 60, column 'part': 'holdout' is no split\. Splits are train, val"):
            load(stars(part=["train"] * 59 + ["holdout"]), split="part")

    def test_a_table_without_test_rows_is_refused(self) -> None:
        with pytest.raises(ValueError, match=r"Split 'test' of task 'table' is missing; splits with rows: train, val"):
            load(stars(part=["train", "validation", "train"] * 20), split="part")

    def test_a_group_in_two_splits_is_refused(self) -> None:
        frame = stars(part=["train"] * 30 + ["test"] * 30, user=[i // 4 for i in range(60)])
        with pytest.raises(ValueError, match=r"column 'user': group '7' has rows in train and in test\. Correct the"):
            load(frame, split="part", group="user")

    def test_a_text_in_two_splits_is_reported_and_with_strict_refused(self, caplog: pytest.LogCaptureFixture) -> None:
        names = ["train"] * 30 + ["validation"] * 15 + ["test"] * 15
        frame = stars(body=[f"Text {i % 45}" for i in range(60)], part=names)
        load(frame, split="part")
        assert "Leak: 15 of 15 rows in split 'test' of task 'table' are also in 'train'" in caplog.text
        with pytest.raises(ValueError, match=r"Leak: 15 of 15"):
            load(frame, split="part", strict=True)


class TestDrawnSplits:
    def test_the_seed_decides_and_nothing_is_warned_of(self, caplog: pytest.LogCaptureFixture) -> None:
        first, same, other = (load(stars(), seed=seed, strict=True).splits["test"].prompts for seed in (0, 0, 1))
        assert first == same != other
        assert not [record for record in caplog.records if record.levelno >= logging.WARNING]

    def test_equal_texts_and_groups_stay_together_and_classes_keep_their_shares(self) -> None:
        rng = np.random.default_rng(0)
        users = rng.integers(0, 90, 600)
        frame = pd.DataFrame(
            {
                "body": [f"Text {i % 550}" for i in range(600)],
                "stars": np.where(rng.random(600) < 0.25, "rare", "usual"),
                "user": users,
            }
        )
        task = load(frame, group="user", strict=True)
        splits_of_user = defaultdict(set)
        user_of_text = defaultdict(set)
        for text, user in zip(frame["body"], users, strict=True):
            user_of_text[text].add(user)
        for split, rows in task.splits.items():
            for user in set().union(*(user_of_text[prompt] for prompt in rows.prompts)):
                splits_of_user[user].add(split)
        assert {len(found) for found in splits_of_user.values()} == {1}
        for split, rows in task.splits.items():
            assert len(rows) == pytest.approx(600 * SHARES[split], abs=12)
            assert rows.labels.count(0) / len(rows) == pytest.approx(0.25, abs=0.05)

    def test_without_groups_every_class_has_its_share_within_a_row_and_a_small_one_is_in_all_splits(self) -> None:
        strata = ["a"] * 500 + ["b"] * 77 + ["c"] * 3
        drawn = draw_splits([range(580)], strata, SHARES, seed=0, task="t")
        counts = Counter(zip(strata, drawn, strict=True))
        for stratum, total in Counter(strata).items():
            for split, share in SHARES.items():
                assert counts[stratum, split] == pytest.approx(total * share, abs=1)
                assert counts[stratum, split] >= 1

    def test_every_row_is_as_likely_as_any_other_to_be_a_test_row(self) -> None:
        strata = [0, 1, 1, 1] * 5
        draws = [draw_splits([range(20)], strata, SHARES, seed=seed, task="t") for seed in range(400)]
        share = np.mean([[own == "test" for own in drawn] for drawn in draws], axis=0)
        assert share == pytest.approx(0.2, abs=0.08)  # four standard errors

    def test_too_few_groups_or_rows_for_three_splits_are_refused(self) -> None:
        with pytest.raises(ValueError, match=r"'table' has 2 groups, too few for 3 splits.*`suite\.group`"):
            load(stars(user=["a", "b"] * 30), group="user")
        few = pd.DataFrame({"body": ["a", "b", "c", "d"], "stars": ["x", "x", "y", "y"]})
        with pytest.raises(ValueError, match=r"The 4 rows of task 'table' do not fill all splits \(train "):
            load(few)

    def test_max_rows_draws_from_the_splits(self) -> None:
        assert sizes(load(stars(), max_rows=6)) == {"train": 6, "validation": 6, "test": 6}


def test_json_lines_keep_lists_and_large_integers(tmp_path: Path) -> None:
    rows = [{"body": f"t {i}", "stars": [["x"], ["x", "y"]][i % 2], "id": 2**60 + i} for i in range(30)]
    file = tmp_path / "many.jsonl.gz"
    file.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
    task = load(file, text="{id} {body}")
    assert (task.kind, task.labels) == ("multilabel", ("x", "y"))
    assert all(int(re.sub(r" t.*", "", prompt)) > 2**60 - 1 for prompt in task.splits["test"].prompts)
