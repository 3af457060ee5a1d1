"""Suites of words from files: CoNLL-U treebanks, texts in columns, and token-classification sets of the Hub."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from probes.tasks.splits import MaxRows, split_name
from probes.tasks.task import Suite
from probes.tasks.words.build import word_suite
from probes.tasks.words.conllu import read_columns, read_conllu
from probes.tasks.words.sentence import Sentence
from probes.values import SPLITS


def load_conllu_suite(
    path: str | Path,
    *,
    tasks: Sequence[str] | None = None,
    max_rows: MaxRows = None,
    subtypes: bool = False,
    seed: int = 0,
    strict: bool = False,
    name: str | None = None,
) -> Suite:
    """Read a treebank of Universal Dependencies: a folder with one `.conllu` file for each split.

    Args:
        path: The folder; a file belongs to the split in its name, as in `en_ewt-ud-train.conllu` or `dev.conllu`.
        tasks: Some of `upos`, `xpos`, `relation`, `edge`, `trees` and, for any morphological feature, `feats.NAME`;
            `None` for all but the features. `word_suite` says what they are.
        max_rows: At most this many sentences in each split, or a mapping split → sentences, drawn by `seed`.
        subtypes: Whether relations keep what follows a colon, as in `nsubj:pass`.
        seed: Decides which sentences are drawn.
        strict: Raise on sentences that two splits share instead of warning.
        name: Name of the suite; `None` for the folder's.

    Raises:
        FileNotFoundError: There is no such folder, or it lacks the file of a split.
        ValueError: A file is not in the format; the message names file and line.
    """
    sentences = _read_folder(path, (".conllu",), read_conllu)
    options = {"tasks": tasks, "max_rows": max_rows, "subtypes": subtypes, "seed": seed, "strict": strict}
    return word_suite(name or Path(path).expanduser().resolve().name, sentences, source=str(path), **options)


def load_columns_suite(
    path: str | Path,
    *,
    word_column: int = 0,
    tag_column: int = -1,
    joined_by: str = " ",
    task: str = "entities",
    max_rows: MaxRows = None,
    seed: int = 0,
    strict: bool = False,
    name: str | None = None,
) -> Suite:
    """Read words with their tags, one a line: a folder with one `.conll`, `.tsv`, `.bio` or `.txt` file for each split.

    Args:
        path: The folder; a file belongs to the split in its name, such as `train.conll`.
        word_column: Column of the word, counted from 0.
        tag_column: Column of its tag; negative numbers count from the last.
        joined_by: What stands between the words of a text: a space, or nothing in scripts without spaces.
        task: Name of the only task; the tags need not be those of entities.
        max_rows: At most this many sentences in each split, or a mapping split → sentences, drawn by `seed`.
        seed: Decides which sentences are drawn.
        strict: Raise on sentences that two splits share instead of warning.
        name: Name of the suite; `None` for the folder's.

    Raises:
        FileNotFoundError: There is no such folder, or it lacks the file of a split.
        ValueError: A line has too few columns; the message names file and line.
    """

    def read(file: Path) -> list[Sentence]:
        return read_columns(file, word=word_column, tag=tag_column, joined_by=joined_by)

    sentences = _read_folder(path, (".conll", ".tsv", ".bio", ".txt"), read)
    suite = name or Path(path).expanduser().resolve().name
    return _renamed(word_suite(suite, sentences, max_rows=max_rows, seed=seed, strict=strict, source=str(path)), task)


def load_hub_words_suite(
    path: str,
    *,
    config: str | None = None,
    revision: str | None = None,
    words: str = "tokens",
    tags: str = "ner_tags",
    labels: Sequence[str] | None = None,
    joined_by: str = " ",
    task: str = "entities",
    max_rows: MaxRows = None,
    seed: int = 0,
    strict: bool = False,
    name: str | None = None,
) -> Suite:
    """Load a token-classification set of the Hub, or of a folder that `datasets.load_dataset` can read.

    Args:
        path: Name of the dataset on the Hub, or a local folder.
        config: Configuration of the dataset; `None` if it has only one.
        revision: Branch, tag or commit; `None` for the newest.
        words: Column with the list of words.
        tags: Column with the list of their tags.
        labels: Names of the tags in index order, if the column has numbers and the dataset does not name them.
        joined_by: What stands between the words of a text: a space, or nothing in scripts without spaces.
        task: Name of the only task; the tags need not be those of entities.
        max_rows: At most this many sentences in each split, or a mapping split → sentences, drawn by `seed`.
        seed: Decides which sentences are drawn.
        strict: Raise on sentences that two splits share instead of warning.
        name: Name of the suite; `None` for the last part of `path`.

    Raises:
        ValueError: There is no such dataset, configuration or column, or words and tags do not fit together.
    """
    from probes.tasks.hub import HubTask, load_dataset_splits

    suite = name or path.rstrip("/").rsplit("/", 1)[-1]
    dataset = load_dataset_splits(HubTask(name=suite, path=path, config=config, revision=revision))
    sentences = {}
    for split, rows in dataset.items():
        if split_name(split) not in SPLITS:
            continue
        for column in (words, tags):
            if column not in rows.column_names:
                raise ValueError(
                    f"Dataset '{path}' has no column '{column}'. It has {', '.join(rows.column_names)}. Set "
                    "`suite.words` and `suite.tags` among these."
                )
        names = labels or getattr(getattr(rows.features[tags], "feature", None), "names", None)
        sentences[split_name(split)] = [
            _tagged(path, split, number, *pair, names=names, joined_by=joined_by)
            for number, pair in enumerate(zip(rows[words], rows[tags], strict=True), start=1)
            if pair[0]
        ]
    return _renamed(word_suite(suite, sentences, max_rows=max_rows, seed=seed, strict=strict, source=path), task)


def _renamed(suite: Suite, name: str) -> Suite:
    """A suite of one task under another name."""
    (task,) = suite.tasks
    return Suite(suite.name, (replace(task, name=name),))


def _tagged(
    path: str,
    split: str,
    number: int,
    words: Sequence[str],
    tags: Sequence[int | str],
    *,
    names: Sequence[str] | None,
    joined_by: str,
) -> Sentence:
    if len(words) != len(tags):
        raise ValueError(f"{path}, split '{split}', row {number}: {len(words)} words and {len(tags)} tags.")
    try:
        entities = tuple(tag if isinstance(tag, str) else (names or ())[tag] for tag in tags)
    except IndexError:
        raise ValueError(
            f"{path}, split '{split}', row {number}: the tags {sorted(set(tags))} are numbers without names. Set "
            "`suite.labels` to the names in index order."
        ) from None
    return Sentence.of_words(words, joined_by=joined_by, entities=entities)


def _read_folder(
    path: str | Path, endings: Sequence[str], read: Callable[[Path], list[Sentence]]
) -> dict[str, list[Sentence]]:
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise FileNotFoundError(f"No folder '{folder}'. Set `suite.path` to a folder with train, dev and test files.")
    files: dict[str, Path] = {}
    for file in sorted(folder.iterdir()):
        splits = {split_name(part) for part in re.split(r"[-_.]", file.stem)} & set(SPLITS)
        if file.suffix not in endings or len(splits) != 1:
            continue
        split = splits.pop()
        if split in files:
            raise ValueError(
                f"'{files[split].name}' and '{file.name}' in '{folder}' both are the {split} split. Keep one of them."
            )
        files[split] = file
    if missing := [split for split in ("train", "test") if split not in files]:
        there = ", ".join(file.name for file in sorted(folder.iterdir())) or "nothing"
        raise FileNotFoundError(
            f"'{folder}' has no {' and no '.join(missing)} file that ends in {' or '.join(endings)}; it has {there}."
        )
    return {split: read(file) for split, file in files.items()}
