from __future__ import annotations

import inspect
import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

from probes.tasks.flan2021 import (
    CLUSTERS,
    MAX_ROWS,
    UNSEEN,
    StreamSampler,
    _address,
    load_flan2021_suite,
    shuffle_in_buffer,
)
from probes.tasks.local import load_local_suite
from probes.tasks.task import Suite

CONFIG = Path(__file__).parents[3] / "conf/suite/flan2021.yaml"
ALL = [task for tasks in CLUSTERS.values() for task in tasks]
ON_THE_HUB = {  # as listed in the card of the dataset
    "aeslc", "ag_news_subset", "anli_r1", "anli_r2", "anli_r3", "arc_challenge", "arc_easy", "bool_q", "cb",
    "cnn_dailymail", "cola", "common_gen", "copa", "coqa", "cosmos_qa", "dart", "definite_pronoun_resolution", "drop",
    "e2e_nlg", "fix_punct", "gigaword", "glue_mrpc", "glue_qqp", "hellaswag", "imdb_reviews", "math_dataset",
    "mnli_matched", "mnli_mismatched", "multi_news", "multirc", "natural_questions", "openbookqa",
    "opinion_abstracts_idebate", "opinion_abstracts_rotten_tomatoes", "para_crawl_enes", "paws_wiki", "piqa", "qnli",
    "quac", "record", "rte", "samsum", "sentiment140", "snli", "squad_v1", "squad_v2", "sst2", "story_cloze", "stsb",
    "trec", "trivia_qa", "true_case", "web_nlg_en", "wic", "wiki_lingua_english_en", "wmt14_enfr",
    "wmt16_translate_csen", "wmt16_translate_deen", "wmt16_translate_fien", "wmt16_translate_roen",
    "wmt16_translate_ruen", "wmt16_translate_tren", "wnli", "word_segment", "wsc", "yelp_polarity_reviews",
}  # fmt: skip


def write_task_files(
    folder: Path, task: str, *, rows: int = 40, classes: bool = True, pattern: str = "{}_10templates_{}"
) -> None:
    """Write one task under the file names of the Hub: `split/task_10templates_split.jsonl`."""
    for split, count in (("train", rows), ("validation", rows // 4), ("test", rows // 2)):
        answers = [("no", "yes")[i % 2] if classes else f"{split} words {i}" for i in range(count)]
        lines = [
            json.dumps({"inputs": f"{task} {split} {i}?", "targets": answer, "task": f"{task}_10templates"})
            for i, answer in enumerate(answers)
        ]
        (folder / split).mkdir(parents=True, exist_ok=True)
        (folder / split / f"{pattern.format(task, split)}.jsonl").write_text("\n".join(lines) + "\n")


@pytest.fixture
def hub_copy(tmp_path: Path) -> Path:
    """Three tasks of different clusters, one of which has no classes."""
    for task in ("rte", "sst2"):
        write_task_files(tmp_path, task)
    write_task_files(tmp_path, "trec", classes=False)
    (tmp_path / "README.md").write_text("About.")
    return tmp_path


def load(path: Path, **settings: Any) -> Suite:
    return load_flan2021_suite(str(path), **settings)


def sizes(suite: Suite) -> list[tuple[int, ...]]:
    return [tuple(len(task.splits[split]) for split in ("train", "validation", "test")) for task in suite.tasks]


def test_tasks_are_in_cluster_order_with_their_kind_and_unseen_mark(hub_copy: Path) -> None:
    suite = load(hub_copy)
    assert suite.name == "flan2021"
    assert [(task.name, task.cluster, task.kind, task.labels, task.unseen) for task in suite.tasks] == [
        ("rte", "natural_language_inference", "classification", ("no", "yes"), False),
        ("sst2", "sentiment", "classification", ("no", "yes"), False),
        ("trec", "miscellaneous", "generation", (), True),
    ]
    assert sizes(suite) == [(40, 10, 20)] * 3
    assert suite.tasks[0].splits["test"].prompts[:2] == ("rte test 0?", "rte test 1?")


def test_the_same_folder_read_as_a_local_suite_gives_the_same_tasks(hub_copy: Path) -> None:
    local = {task.name: task for task in load_local_suite(hub_copy).tasks}
    for task in load(hub_copy).tasks:
        same = local[task.name]
        assert (task.kind, task.labels, task.splits) == (same.kind, same.labels, same.splits)


def test_files_with_and_without_the_ending_10templates_are_read(hub_copy: Path, tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    write_task_files(plain, "rte", pattern="{}")
    assert load(plain).tasks[0].splits == load(hub_copy, tasks=["rte"]).tasks[0].splits


def test_69_tasks_are_in_12_clusters_each_in_one() -> None:
    assert (len(CLUSTERS), len(ALL), len(set(ALL))) == (12, 69, 69)
    assert set(ALL) - ON_THE_HUB == {"newsroom", "winogrande", "xsum"}
    assert len(ON_THE_HUB & set(ALL)) == 66
    assert set(UNSEEN) < set(CLUSTERS["miscellaneous"])


def test_a_folder_with_the_66_tasks_of_the_hub_is_read_completely(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="probes")
    for task in ON_THE_HUB:
        write_task_files(tmp_path, task, rows=8)
    suite = load(tmp_path)
    assert [task.name for task in suite.tasks] == [task for task in ALL if task in ON_THE_HUB]
    assert "has 66 of the 69 tasks of FLAN 2021, not ['winogrande', 'newsroom', 'xsum']" in caplog.text


def test_unseen_accepts_tasks_and_whole_clusters(hub_copy: Path) -> None:
    def marked(unseen: list[str]) -> list[str]:
        return [task.name for task in load(hub_copy, unseen=unseen).tasks if task.unseen]

    assert marked([]) == []
    assert marked(["sst2"]) == ["sst2"]
    assert marked(["natural_language_inference", "sst2"]) == ["rte", "sst2"]


def test_each_split_can_have_its_cap_and_one_number_caps_all(hub_copy: Path) -> None:
    assert sizes(load(hub_copy, tasks=["rte"], max_rows={"train": 12, "test": 7})) == [(12, 10, 7)]
    assert sizes(load(hub_copy, tasks=["rte"], max_rows=9)) == [(9, 9, 9)]
    assert sizes(load(hub_copy, tasks=["rte"], max_rows=None, train_rows_per_cluster=None)) == [(40, 10, 20)]


def test_the_training_rows_of_a_cluster_are_divided_between_all_its_tasks_in_the_suite_or_not(hub_copy: Path) -> None:
    suite = load(hub_copy, train_rows_per_cluster=80)
    assert [len(task.splits["train"]) for task in suite.tasks] == [80 // 10, 80 // 4, 80 // 9]
    assert sizes(load(hub_copy, tasks=["rte"], train_rows_per_cluster=80, max_rows={"train": 6})) == [(6, 10, 20)]


def test_by_default_no_cluster_has_more_than_50_000_training_rows_and_no_task_more_than_10_000_test_rows() -> None:
    sampler = StreamSampler(MAX_ROWS, 50_000, 1_000, 0)
    for tasks in CLUSTERS.values():
        caps = [sampler.cap(task, "train") or 0 for task in tasks]
        assert 50_000 - len(tasks) < sum(caps) <= 50_000
    assert {(sampler.cap(task, "validation"), sampler.cap(task, "test")) for task in ALL} == {(1_000, 10_000)}


def test_at_most_as_many_lines_as_the_cap_and_the_buffer_are_read(hub_copy: Path) -> None:
    file = hub_copy / "train/rte_10templates_train.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(lines[:15]) + "no JSON\n" * 5)
    assert sizes(load(hub_copy, tasks=["rte"], max_rows={"train": 10}, shuffle_buffer=5))[0][0] == 10
    with pytest.raises(ValueError, match=r"rte_10templates_train.jsonl, line 1[6-9]: not JSON"):
        load(hub_copy, tasks=["rte"], max_rows={"train": 16}, shuffle_buffer=5)


def test_the_shuffle_reads_only_n_lines_and_the_buffer_and_moves_no_line_further_ahead_than_the_buffer() -> None:
    read = 0

    def lines() -> Iterator[tuple[int, str]]:
        nonlocal read
        for number in range(200):
            read += 1
            yield number, ""

    stream = shuffle_in_buffer(lines(), 30, np.random.default_rng(0))
    first = [next(stream)[0] for _ in range(50)]
    assert read == 80
    order = first + [number for number, _ in stream]
    assert sorted(order) == list(range(200))
    assert order != list(range(200))
    assert max(number - place for place, number in enumerate(order)) <= 30


def test_every_line_in_the_buffer_is_equally_likely_to_be_drawn() -> None:
    """A line is still in the buffer after n draws with probability (1 - 1/size)^n, or 1 - n/size at the file's end."""
    for lines, chance in ((40, 1 - 0.9**5), (10, 0.5)):
        counts = np.zeros(lines)
        for seed in range(600):
            stream = shuffle_in_buffer(((k, "") for k in range(lines)), 10, np.random.default_rng(seed))
            counts[[next(stream)[0] for _ in range(5)]] += 1
        assert np.abs(counts[:10] - 600 * chance).max() < 4 * np.sqrt(600 * chance * (1 - chance))


def test_equal_seeds_draw_equal_rows_and_different_seeds_do_not(hub_copy: Path) -> None:
    draws = [load(hub_copy, tasks=["rte"], max_rows=8, seed=seed).tasks[0].splits for seed in (0, 0, 1)]
    assert draws[0] == draws[1]
    for split in ("train", "validation", "test"):
        assert draws[0][split] != draws[2][split]


def test_the_rows_of_a_task_do_not_depend_on_the_other_tasks(hub_copy: Path) -> None:
    alone, among = load(hub_copy, tasks=["sst2"], max_rows=8), load(hub_copy, max_rows=8)
    assert alone.tasks[0].splits == among.tasks[1].splits


def test_rows_keep_the_order_of_the_file_and_a_smaller_cap_draws_a_subset(hub_copy: Path) -> None:
    def drawn(cap: int) -> list[int]:
        prompts = load(hub_copy, tasks=["rte"], max_rows={"train": cap}).tasks[0].splits["train"].prompts
        return [int(prompt.split()[-1].rstrip("?")) for prompt in prompts]

    assert drawn(20) == sorted(drawn(20)) != list(range(20))
    assert set(drawn(8)) < set(drawn(20))


def test_only_files_of_json_lines_are_read(hub_copy: Path) -> None:
    (hub_copy / "train/rte_10templates_train.parquet").write_bytes(b"PAR1")
    assert sizes(load(hub_copy, tasks=["rte"])) == [(40, 10, 20)]


def test_rows_in_two_splits_are_warned_of_and_refused_if_strict(
    hub_copy: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train = (hub_copy / "train/rte_10templates_train.jsonl").read_text()
    (hub_copy / "test/rte_10templates_test.jsonl").write_text(train)
    load(hub_copy, tasks=["rte"])
    assert "Leak: 40 of 40 rows in split 'test'" in caplog.text
    with pytest.raises(ValueError, match=r"Leak: 40 of 40 rows"):
        load(hub_copy, tasks=["rte"], strict=True)


def test_without_a_buffer_the_first_lines_are_taken(hub_copy: Path) -> None:
    prompts = load(hub_copy, tasks=["rte"], max_rows={"train": 3}, shuffle_buffer=0).tasks[0].splits["train"].prompts
    assert prompts == ("rte train 0?", "rte train 1?", "rte train 2?")


def test_a_missing_validation_file_is_carved_from_train(hub_copy: Path, caplog: pytest.LogCaptureFixture) -> None:
    (hub_copy / "validation/rte_10templates_validation.jsonl").unlink()
    assert sizes(load(hub_copy, tasks=["rte"])) == [(32, 8, 20)]
    assert "8 of its 40 training rows" in caplog.text


def test_a_template_fills_in_the_fields(hub_copy: Path) -> None:
    assert load(hub_copy, tasks=["rte"], template="<{inputs}>").tasks[0].splits["test"].prompts[0] == "<rte test 0?>"


def test_a_byte_order_mark_blank_lines_and_line_separators_within_text_change_nothing(hub_copy: Path) -> None:
    file = hub_copy / "test/rte_10templates_test.jsonl"
    row = json.dumps({"inputs": "one\u2028two\x85three?", "targets": "yes"}, ensure_ascii=False)
    file.write_text(f"\ufeff{row}\n\n{row}\n\n", encoding="utf-8")
    assert load(hub_copy, tasks=["rte"]).tasks[0].splits["test"].prompts == ("one\u2028two\x85three?",) * 2


def test_other_file_systems_give_the_same_rows(hub_copy: Path) -> None:
    import fsspec

    memory = fsspec.filesystem("memory")
    memory.put(str(hub_copy), "/flan", recursive=True)
    try:
        suite = load_flan2021_suite("memory://flan", max_rows=8)
    finally:
        memory.rm("/flan", recursive=True)
    assert [task.splits for task in suite.tasks] == [task.splits for task in load(hub_copy, max_rows=8).tasks]


def test_a_name_that_is_not_a_folder_is_a_dataset_on_the_hub() -> None:
    assert _address("Muennighoff/flan", None) == "hf://datasets/Muennighoff/flan"
    assert _address("Muennighoff/flan", "refs/pr/1") == "hf://datasets/Muennighoff/flan@refs%2Fpr%2F1"


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"unseen": ["cola", "sentimet"]}, r"no task or cluster 'sentimet'. Did you mean 'sentiment'\? Set `suite.uns"),
        ({"tasks": ["sst3"]}, r"No task 'sst3'. Did you mean 'sst2'\? There are rte, sst2, trec. Set `suite.tasks`"),
        ({"max_rows": 0}, r"`suite.max_rows` must be an integer of at least 1"),
        ({"max_rows": {"tset": 1}}, r"`suite.max_rows` has no split tset. Its splits are train, validation, test"),
        (
            {"train_rows_per_cluster": 0},
            r"`suite.train_rows_per_cluster` must be at least 1, or null; got 0",
        ),
        ({"shuffle_buffer": -1}, r"`suite.shuffle_buffer` must be at least 0; got -1"),
        ({"prompt": "raw"}, r"Task 'rte' has no raw prompt: .* Set `suite.prompt=instruction`"),
    ],
)
def test_bad_settings_are_refused_with_the_key_to_set(hub_copy: Path, settings: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        load(hub_copy, **settings)


def test_settings_are_checked_before_anything_is_read() -> None:
    for settings in ({"max_rows": {"test": 0}}, {"shuffle_buffer": -1}, {"unseen": ["tree"]}):
        with pytest.raises(ValueError, match=r"Set `suite.unseen`|must be"):
            load(Path("nowhere"), **settings)


def test_missing_files_are_named(hub_copy: Path) -> None:
    with pytest.raises(
        FileNotFoundError, match=r"no split/task.jsonl for xsum. It has rte, sst2, trec. Set `suite.task"
    ):
        load(hub_copy, tasks=["rte", "xsum"])
    (hub_copy / "train/rte_10templates_train.jsonl").unlink()
    (hub_copy / "test/sst2_10templates_test.jsonl").unlink()
    with pytest.raises(
        FileNotFoundError,
        match=r"lacks train/rte_10templates_train.jsonl, test/sst2_10templates_test.jsonl .* leave rte, sst2 out of",
    ):
        load(hub_copy)
    assert [task.name for task in load(hub_copy, tasks=["trec"]).tasks] == ["trec"]


def test_a_folder_without_tasks_of_flan_is_refused(tmp_path: Path) -> None:
    write_task_files(tmp_path, "mine")
    with pytest.raises(FileNotFoundError, match=r"no split/task.jsonl for any task of FLAN 2021. It has none"):
        load(tmp_path)


@pytest.mark.usefixtures("offline_datasets")
@pytest.mark.parametrize("path", ["./nowhere", "Muennighoff/flan", "memory://nowhere", "nothing://nowhere"])
def test_a_place_that_cannot_be_listed_is_refused_with_the_key_to_set(path: str) -> None:
    with pytest.raises(ValueError, match=rf"Cannot list '{path}': .*(Error|OfflineModeIsEnabled): .* Set `suite.path`"):
        load_flan2021_suite(path)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b'{"inputs": "a"}\n', r"rte_10templates_test.jsonl, line 1: no field `targets` or `label`"),
        (b'{"inputs": "caf\xe9", "targets": "yes"}\n', r"rte_10templates_test.jsonl is not UTF-8 text"),
        (b"", r"Split 'test' of task 'rte' is empty"),
        (
            b'{"inputs": "a", "targets": "maybe"}\n',
            r"Label 'maybe' of task 'rte', split 'test', row 1 \(.*rows counted",
        ),
    ],
)
def test_bad_rows_are_refused_with_their_file(hub_copy: Path, content: bytes, why: str) -> None:
    (hub_copy / "test/rte_10templates_test.jsonl").write_bytes(content)
    with pytest.raises(ValueError, match=why):
        load(hub_copy, tasks=["rte"])


def test_an_empty_training_file_is_named(hub_copy: Path) -> None:
    (hub_copy / "train/rte_10templates_train.jsonl").write_bytes(b"")
    with pytest.raises(ValueError, match=r"Split 'train' of task 'rte' is empty; splits with rows: validation, test"):
        load(hub_copy, tasks=["rte"])


def test_the_suite_config_has_the_defaults_of_the_function_and_loads(hub_copy: Path) -> None:
    config = OmegaConf.load(CONFIG)
    settings: Any = OmegaConf.to_container(config)
    for name, parameter in inspect.signature(load_flan2021_suite).parameters.items():
        default = parameter.default
        plain = dict(default) if name == "max_rows" else list(default) if isinstance(default, tuple) else default
        assert settings[name] == plain
    suite = instantiate(OmegaConf.merge(config, {"path": str(hub_copy), "tasks": ["trec"]}))
    assert sizes(suite) == [(40, 10, 20)]


def test_importing_the_module_does_not_import_hub_libraries() -> None:
    heavy = ("datasets", "fsspec", "huggingface_hub", "transformers", "torch")
    code = f"import sys, probes.tasks.flan2021; print([name for name in {heavy} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
