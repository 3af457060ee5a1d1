"""A corpus of odd JSON lines files: each gives the right rows, or an error that names file and line."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from probes.tasks import Suite, load_local_suite
from probes.tasks.local import parse_row

ROWS = 40
"""Rows of the training file; what a test adds becomes line 41."""


def line(number: int = 0, **changes: object) -> str:
    """A good row with another text for each number; `changes` with the value `...` remove a field."""
    row = {"inputs": f"row {number} feels so", "targets": ("sad", "glad")[number % 2], "label": number % 2} | changes
    return json.dumps({key: value for key, value in row.items() if value is not ...})


def good(prefix: int, count: int) -> list[str]:
    return [line(prefix + i) for i in range(count)]


@pytest.fixture
def folder(tmp_path) -> Path:
    suite = tmp_path / "suite"
    (suite / "mood").mkdir(parents=True)
    for split, start, count in (("train", 0, ROWS), ("validation", 1000, 10), ("test", 2000, 20)):
        (suite / "mood" / f"{split}.jsonl").write_text("\n".join(good(start, count)) + "\n")
    return suite


def loaded(folder: Path) -> Suite:
    return load_local_suite(folder)


def train(suite: Suite) -> tuple[str, ...]:
    return suite.tasks[0].splits["train"].prompts


ADDED = {  # bytes after the last good line of the training file → what the error says of line 41
    "no JSON": (b"hello\n", "not JSON"),
    "truncated line": (line(99).encode()[:-9], "not JSON"),
    "truncated in a character": ('{"inputs": "caf\u00e9'.encode()[:-1], "is not UTF-8 text"),
    "trailing comma": (b'{"inputs": "a", "targets": "sad", "label": 0,}\n', "not JSON"),
    "comma between lines": (line(98).encode() + b",\n" + line(99).encode() + b"\n", "not JSON"),
    "single quotes": (b"{'inputs': 'a', 'label': 0}\n", "not JSON"),
    "two objects on a line": (line(98).encode() + line(99).encode() + b"\n", "not JSON"),
    "blank line inside": (b"\n" + line(99).encode() + b"\n", "empty"),
    "line of spaces inside": (b"   \n" + line(99).encode() + b"\n", "empty"),
    "comment": (b"# a comment\n", "not JSON"),
    "array": (b"[1, 2]\n", "of type list"),
    "array of objects": (f"[{line(99)}]\n".encode(), "of type list"),
    "number": (b"7\n", "of type int"),
    "text": (b'"hello"\n', "of type str"),
    "null": (b"null\n", "of type NoneType"),
    "empty object": (b"{}\n", "no fields"),
    "NaN label": (b'{"inputs": "a", "label": NaN}\n', "NaN is not JSON"),
    "NaN in another field": (b'{"inputs": "a", "label": 0, "score": NaN}\n', "NaN is not JSON"),
    "Infinity": (b'{"inputs": "a", "label": Infinity}\n', "Infinity is not JSON"),
    "minus Infinity": (b'{"inputs": "a", "label": -Infinity}\n', "-Infinity is not JSON"),
    "repeated key": (b'{"inputs": "a", "label": 0, "label": 1}\n', "`label` stands there twice"),
    "repeated key within": (b'{"inputs": "a", "label": 0, "m": {"x": 1, "x": 2}}\n', "`x` stands there twice"),
    "NUL in a text": (b'{"inputs": "a\0b", "label": 0}\n', "not JSON"),
    "NUL bytes of a sparse file": (b"\0" * 100, "not JSON"),
    "control character": (b'{"inputs": "a\tb", "label": 0}\n', "not JSON"),
    "high surrogate": (b'{"inputs": "a\\ud800b", "label": 0}\n', "ud800 is half of a surrogate pair"),
    "low surrogate": (b'{"inputs": "a\\uDC00", "label": 0}\n', "udc00 is half of a surrogate pair"),
    "surrogate in a key": (b'{"inputs": "a", "label": 0, "\\ud83d": 1}\n', "ud83d is half"),
    "surrogate in the answer": (b'{"inputs": "a", "targets": "\\udfff"}\n', "udfff is half"),
    "surrogate as bytes": (b'{"inputs": "a\xed\xa0\x80b", "label": 0}\n', "is not UTF-8 text"),
    "Latin-1": (b'{"inputs": "caf\xe9", "label": 0}\n', "is not UTF-8 text"),
    "deep nesting": (b'{"inputs": "a", "label": 0, "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}\n", "too deeply"),
    "deep nesting, unclosed": (b"[" * 100_000 + b"\n", "too deeply"),
    "number of 5,000 digits": (b'{"inputs": "a", "label": ' + b"9" * 5000 + b"}\n", "digits"),
    "no answer": (line(99, label=..., targets=...).encode() + b"\n", "no field `targets` or `label`; the row has"),
    "null answer": (line(99, label=None, targets=None).encode() + b"\n", "`targets` is null and `label` is null"),
    "answer is a list": (line(99, targets=["sad"]).encode() + b"\n", "`targets` must be the answer in words; got list"),
    "answer is an object": (line(99, targets={"a": 1}).encode() + b"\n", "got dict"),
    "byte order mark inside": ("\ufeff".encode() + line(99).encode() + b"\n", "not JSON"),
    "old Mac line ends": (line(98).encode() + b"\r" + line(99).encode() + b"\n", "not JSON"),
}  # fmt: skip


@pytest.mark.parametrize("name", ADDED)
def test_a_line_that_is_no_row_is_refused_by_file_and_line(folder, name):
    added, message = ADDED[name]
    with (folder / "mood/train.jsonl").open("ab") as file:
        file.write(added)
    with pytest.raises(ValueError, match=message) as raised:
        loaded(folder)
    assert "mood/train.jsonl" in str(raised.value)
    assert f"line {ROWS + 1}" in str(raised.value)


ROW_FAULTS = {  # a row that is JSON but does not fit → what the error says of row 41
    "text is null": (line(99, inputs=None), "must hold text.*got None"),
    "text is an object": (line(99, inputs={"a": 1}), "must hold text"),
    "text is a boolean": (line(99, inputs=True), "got True"),
    "text is missing": (line(99, inputs=...), "needs the field 'inputs'; the row has targets, label"),
    "text is empty": (line(99, inputs=""), "is empty"),
    "text is white space": (line(99, inputs=" \n\t "), "is empty"),
    "label is missing": (line(99, label=...), r"mixed types: integer \(row 1\), null \(row 41\)"),
    "label is null": (line(99, label=None), r"null \(row 41\)"),
    "label is a text": (line(99, label="glad"), r"string \(row 41\)"),
    "label is a float": (line(99, label=0.5), r"float \(row 41\)"),
    "label is a boolean": (line(99, label=True), r"boolean \(row 41\)"),
    "label is a list": (line(99, label=[0]), r"list \(row 41\)"),
    "label is an object": (line(99, label={"a": 1}), r"dict \(row 41\)"),
    "label is negative": (line(99, label=-1), "Label -1 of .*row 41.*unlabelled"),
}


@pytest.mark.parametrize("name", ROW_FAULTS)
def test_a_row_that_does_not_fit_is_refused_by_file_and_row(folder, name):
    added, message = ROW_FAULTS[name]
    with (folder / "mood/train.jsonl").open("a") as file:
        file.write(added + "\n")
    with pytest.raises(ValueError, match=message) as raised:
        loaded(folder)
    assert "mood/train.jsonl" in str(raised.value)


@pytest.mark.parametrize("label", [True, "mad", 7, 0.0, None, [0]])
def test_a_test_row_with_a_label_of_another_kind_is_refused_by_file_and_row(folder, label):
    with (folder / "mood/test.jsonl").open("a") as file:
        file.write(line(99, label=label) + "\n")
    with pytest.raises(ValueError, match=r"row 21 \(.*mood/test\.jsonl"):
        loaded(folder)


def test_an_identifier_in_place_of_a_class_is_refused(folder):
    with (folder / "mood/train.jsonl").open("a") as file:
        file.write(line(99, label=10**12) + "\n")
    with pytest.raises(ValueError, match=r"Label 1000000000000 of task 'mood' is too large for the index of a class"):
        loaded(folder)


UNCHANGED: dict[str, Callable[[bytes], bytes]] = {  # other bytes that hold the same rows
    "byte order mark": lambda text: b"\xef\xbb\xbf" + text,
    "Windows line ends": lambda text: text.replace(b"\n", b"\r\n"),
    "no line end at the end": lambda text: text.rstrip(b"\n"),
    "blank lines at the end": lambda text: text + b"\n\r\n  \n\n",
    "spaces around objects": lambda text: text.replace(b"{", b"  {").replace(b"}", b"}  "),
    "escaped letters": lambda text: text.replace(b"row", b"\\u0072ow"),
}


@pytest.mark.parametrize("name", UNCHANGED)
def test_other_bytes_of_the_same_rows_give_the_same_rows(folder, name):
    expected = loaded(folder)
    for file in (folder / "mood").iterdir():
        file.write_bytes(UNCHANGED[name](file.read_bytes()))
    assert loaded(folder) == expected


TEXTS = ["a\u2028b", "a\x00b", "é", "e\u0301", "😀", "\U0010ffff", "\u202eabc", "﷽" * 50, "x" * 2_000_000, "7", " a "]


@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
def test_odd_texts_are_read_as_they_are(folder, text):
    with (folder / "mood/train.jsonl").open("a") as file:
        file.write(line(99, inputs=text) + "\n" + line(98) + "\n")
    assert train(loaded(folder))[-2:] == (text, "row 98 feels so")


def test_a_number_as_text_is_its_digits(folder):
    with (folder / "mood/train.jsonl").open("a") as file:
        file.write(line(99, inputs=7) + "\n")
    assert train(loaded(folder))[-1] == "7"


def test_booleans_are_two_classes(folder):
    for file in (folder / "mood").iterdir():
        rows = [json.loads(text) for text in file.read_text().splitlines()]
        file.write_text("".join(json.dumps(row | {"label": bool(row["label"])}) + "\n" for row in rows))
    task = loaded(folder).tasks[0]
    assert (task.kind, task.labels, task.splits["train"].labels[:2]) == ("classification", ("false", "true"), (0, 1))


def unreadable_files(path: Path) -> dict[str, Callable[[], object]]:
    return {
        "a folder": path.mkdir,
        "a link to itself": lambda: path.symlink_to(path),
        "a link to nothing": lambda: path.symlink_to(path.with_name("nothing")),
        "a loop of links": lambda: (path.symlink_to(path.with_suffix(".b")), path.with_suffix(".b").symlink_to(path)),
    }


@pytest.mark.parametrize("name", ["a folder", "a link to itself", "a link to nothing", "a loop of links"])
def test_a_file_that_cannot_be_read_is_named(folder, name):
    path = folder / "mood/train.jsonl"
    path.unlink()
    unreadable_files(path)[name]()
    with pytest.raises(ValueError, match=r"mood/train\.jsonl cannot be read: (Is a dir|Too many|No such file)"):
        loaded(folder)


def test_a_folder_that_contains_itself_is_read_once(folder):
    expected = loaded(folder)
    (folder / "again").symlink_to(folder)
    (folder / "mood/mood").symlink_to(folder / "mood")
    assert loaded(folder) == expected


def test_an_empty_file_is_named(folder):
    (folder / "mood/train.jsonl").write_bytes(b"")
    with pytest.raises(ValueError, match=r"Split 'train' of task 'mood' is empty.*mood/train\.jsonl"):
        loaded(folder)


def test_two_files_of_one_split_are_refused(folder):
    (folder / "mood/dev.jsonl").write_text(line(5) + "\n")
    with pytest.raises(ValueError, match=r"two files: .*mood/dev\.jsonl and .*mood/validation\.jsonl"):
        loaded(folder)


def test_a_file_that_no_split_is_named_after_is_named_in_a_warning(folder, caplog):
    (folder / "mood/training.jsonl").write_text(line(5) + "\n")
    loaded(folder)
    assert "Not read" in caplog.text
    assert "mood/training.jsonl" in caplog.text


@pytest.mark.parametrize(
    ("listing", "message"),
    [
        ("", "line 1: not JSON"),
        ("[]", "must be an object with `tasks`"),
        ('{"tasks": {"mood": 1}}', "must be an object with `tasks`"),
        ('{"tasks": [{"name": null}]}', "must be an object with `tasks`"),
        ('{"tasks": [{"name": "mood"}, {"name": "mood"}]}', "lists task 'mood' 2 times"),
        ('{"tasks": [{"name": "mood", "name": "x"}]}', "`name` stands there twice"),
        ('{"tasks": [{"name": "mood", "labels": "ab"}]}', "must be a list of different names; got 'ab'"),
        ('{"tasks": [{"name": "mood", "labels": ["a", "a"]}]}', "must be a list of different names"),
        ("[" * 100_000, "nested too deeply"),
        ('{"tasks": [{"name": "mood", "labels": ["a", "\\ud800"]}]}', "half of a surrogate pair"),
        ("\udc80", "is not UTF-8"),
    ],
)
def test_a_listing_that_is_wrong_is_named(folder, listing, message):
    (folder / "suite.json").write_bytes(listing.encode("utf-8", "surrogateescape"))
    with pytest.raises(ValueError, match=message) as raised:
        loaded(folder)
    assert "suite.json" in str(raised.value)


def test_the_corpus_has_forty_files():
    cases = [ADDED, ROW_FAULTS, UNCHANGED, TEXTS]
    assert sum(map(len, cases)) + 6 + 4 + 10 >= 40


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["inputs", "label", "targets"]), inner),
    max_leaves=8,
)  # fmt: skip
_LINES = st.text(max_size=60) | _JSON.map(json.dumps) | st.binary(max_size=60).map(lambda b: b.decode(errors="replace"))


@given(_LINES)
def test_any_line_is_a_row_or_is_refused_by_file_and_line(text):
    try:
        row = parse_row(Path("a.jsonl"), 7, text)
    except ValueError as error:
        assert str(error).startswith("a.jsonl, line 7: ")  # noqa: PT017
    else:
        assert row == json.loads(text)
        assert row.get("targets") is not None or row.get("label") is not None


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(_LINES, max_size=3), st.binary(max_size=5), st.sampled_from([b"\n", b"\r\n"]))
def test_any_end_of_a_file_gives_all_its_rows_or_an_error_that_names_it(folder, lines, junk, end):
    added = b"".join(text.encode("utf-8", "surrogatepass") + end for text in lines) + junk
    (folder / "mood/train.jsonl").write_bytes("\n".join(good(0, ROWS)).encode() + b"\n" + added)
    try:
        suite = loaded(folder)
    except ValueError as error:
        assert "mood" in str(error)  # noqa: PT017
    else:
        assert len(train(suite)) == ROWS + len([text for text in added.decode().rstrip().split("\n") if text])


def test_a_file_without_read_permission_is_named(folder, monkeypatch):
    def refuse(path: Path) -> bytes:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(ValueError, match=r"mood/train\.jsonl cannot be read: Permission denied"):
        loaded(folder)
