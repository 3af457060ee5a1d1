"""Treebanks in the CoNLL-U format of Universal Dependencies, and texts in columns: one word and its tag a line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from probes.tasks.words.sentence import Sentence

_COLUMNS = 10
_Line = tuple[int, list[str]]


def read_conllu(file: Path) -> list[Sentence]:
    """Read a treebank: words, parts of speech, features, heads and relations.

    The text of a sentence is its words as they are written, with a space wherever `SpaceAfter=No` does not deny it.
    The words of a contraction that is written as one token (`2-3 du`, then `2 de` and `3 le`) all have the characters
    of that token, or their own where they make it up (`don't` is `do` and `n't`). Empty nodes (`5.1`) are left out.

    Raises:
        ValueError: A line has not ten columns, or a number or head that does not fit; the message names file and line.
    """
    return [_sentence(file, lines, name) for lines, name in _blocks(file, separator="\t")]


def read_columns(file: Path, *, word: int = 0, tag: int = -1, joined_by: str = " ") -> list[Sentence]:
    """Read sentences of one word a line with its columns, separated by tabs or spaces; empty lines divide sentences.

    Args:
        file: The file; lines of `-DOCSTART-` are skipped.
        word: Column of the word, counted from 0.
        tag: Column of its tag; negative numbers count from the last.
        joined_by: What stands between the words of a text.

    Raises:
        ValueError: A line has too few columns; the message names file and line.
    """
    sentences = []
    for lines, name in _blocks(file, separator=None):
        words, tags = [], []
        for number, cells in lines:
            if cells[0] == "-DOCSTART-":
                continue
            try:
                words.append(cells[word])
                tags.append(cells[tag])
            except IndexError:
                raise ValueError(
                    f"{file}, line {number}: {len(cells)} columns, and the word is looked for in column {word}, its "
                    f"tag in column {tag}, counted from 0. Set `suite.word_column` and `suite.tag_column`."
                ) from None
        if words:
            sentences.append(Sentence.of_words(words, joined_by=joined_by, entities=tuple(tags), name=name))
    return sentences


def _blocks(file: Path, *, separator: str | None) -> Iterator[tuple[list[_Line], str]]:
    """The numbered lines of each sentence, split into cells, and the sentence's name."""
    lines: list[_Line] = []
    name = ""
    try:
        content = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not UTF-8 text (byte {error.start}). Save it as UTF-8.") from error
    for number, line in enumerate([*content.split("\n"), ""], start=1):
        if separator is not None and line.startswith("#"):
            key, _, value = line[1:].partition("=")
            name = value.strip() if key.strip() == "sent_id" else name
        elif line.strip():
            lines.append((number, line.rstrip("\r").split(separator)))
        elif lines:
            yield lines, name
            lines, name = [], ""


def _sentence(file: Path, lines: list[_Line], name: str) -> Sentence:
    text, last_space = "", ""
    forms: list[str] = []
    ranges: list[tuple[int, int]] = []
    rows: list[tuple[int, list[str]]] = []
    token_end, token_forms, token_start = 0, "", 0  # of the last token of several words: its last word, and its form
    for number, cells in lines:
        where = f"{file}, line {number}"
        if len(cells) != _COLUMNS:
            raise ValueError(f"{where}: CoNLL-U has {_COLUMNS} columns with tabs between them; got {len(cells)}.")
        identity, form = cells[0], cells[1]
        if "." in identity:
            continue
        space = "" if "SpaceAfter=No" in cells[9].split("|") else " "
        if "-" in identity:
            token_start, token_end, token_forms = len(text + last_space), int(identity.split("-")[1]), form
            text, last_space = text + last_space + form, space
            continue
        if identity != str(len(forms) + 1):
            raise ValueError(f"{where}: word number {len(forms) + 1} was expected; got {identity!r}.")
        if not form:
            raise ValueError(f"{where}: the word is empty.")
        forms.append(form)
        rows.append((number, cells))
        if len(forms) <= token_end:
            ranges.append((token_start, token_start + len(token_forms)))
            if len(forms) == token_end:
                _divide(ranges, forms, token_forms)
            continue
        start = len(text + last_space)
        text, last_space = text + last_space + form, space
        ranges.append((start, start + len(form)))
    return Sentence(
        text,
        tuple(forms),
        tuple(ranges),
        upos=_tags(rows, 3),
        xpos=_tags(rows, 4),
        feats=tuple(_features(file, number, cells[5]) for number, cells in rows),
        heads=tuple(_head(file, number, cells[6], len(forms)) for number, cells in rows)
        if any(cells[6] != "_" for _, cells in rows)
        else (),
        relations=_tags(rows, 7),
        name=name,
    )


def _divide(ranges: list[tuple[int, int]], forms: list[str], token: str) -> None:
    """Give the words of a token their own characters, if they make it up."""
    shared = ranges[-1]
    count = sum(1 for one in ranges if one == shared)
    words = forms[-count:]
    if "".join(words) != token:
        return
    place = shared[0]
    for i, word in enumerate(words, start=len(ranges) - count):
        ranges[i] = (place, place + len(word))
        place += len(word)


def _tags(rows: list[tuple[int, list[str]]], column: int) -> tuple[str, ...]:
    tags = tuple("" if cells[column] == "_" else cells[column] for _, cells in rows)
    return tags if any(tags) else ()


def _features(file: Path, number: int, cell: str) -> dict[str, str]:
    if cell == "_":
        return {}
    pairs = [pair.partition("=") for pair in cell.split("|")]
    if not all(equals for _, equals, _ in pairs):
        raise ValueError(f"{file}, line {number}: features are `Name=Value|Name=Value`; got {cell!r}.")
    return {name: value for name, _, value in pairs}


def _head(file: Path, number: int, cell: str, words: int) -> int:
    if not cell.isdecimal() or int(cell) > words:
        raise ValueError(f"{file}, line {number}: a head is a number from 0 to {words}; got {cell!r}.")
    return int(cell)
