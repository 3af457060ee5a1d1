"""What each word of a prompt contributes to the answer: a file for each task, which the report shows in colours."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from probes.files import file_name
from probes.report.csv_files import write_table

COLUMNS = ("row", "role", "answer", "log_odds", "word", "text", "part", "attribution", "share")
_TEXTS_SHOWN = 8
"""Prompts of each task that the report shows; the file has all."""


@dataclass(frozen=True)
class AttributedText:
    """A prompt, word by word.

    Attributes:
        row: Number of the test row.
        role: Which model: `""`, or `reference`.
        answer: The right answer.
        log_odds: That of the right answer, nats.
        words: Of each word its text, its part of the prompt, and what it contributes to the log-odds, nats.
    """

    row: int
    role: str
    answer: str
    log_odds: float
    words: tuple[tuple[str, str, float], ...]

    @property
    def shares(self) -> list[float]:
        """Each word's contribution as a share of the sum of all absolute ones."""
        whole = sum(abs(value) for _, _, value in self.words)
        return [value / whole if whole else 0.0 for _, _, value in self.words]


def write_attributions(task: str, texts: Sequence[AttributedText], folder: Path) -> Path:
    """Write `<folder>/<task>.csv` with a row for each word.

    Args:
        task: Its name.
        texts: All rows of the task, of one model after another.
        folder: Usually `<output folder>/attributions`.
    """
    rows = (
        (
            str(text.row), text.role, text.answer, repr(text.log_odds), str(number), word, part, repr(value),
            repr(share),
        )
        for text in texts
        for number, ((word, part, value), share) in enumerate(zip(text.words, text.shares, strict=True))
    )  # fmt: skip
    return write_table(folder / f"{file_name(task)}.csv", COLUMNS, rows)


def read_attributions(path: Path) -> list[AttributedText]:
    """Read what `write_attributions` wrote."""
    texts: dict[tuple[str, str], AttributedText] = {}
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            key = (row["row"], row["role"])
            before = texts[key].words if key in texts else ()
            word = (row["text"], row["part"], float(row["attribution"]))
            texts[key] = AttributedText(
                int(row["row"]), row["role"], row["answer"], float(row["log_odds"]), (*before, word)
            )
    return list(texts.values())


def coloured_texts(texts: Iterable[AttributedText]) -> list[dict]:
    """The first texts of a task for the page: each word with its colour, those of two models one below the other.

    Returns:
        For each text its `row`, `role`, `answer`, `log_odds` and `words`; of each word its `text`, `part`, `share` and
        `style`: blue for the right answer and orange against it, the stronger the larger the share.
    """
    rows = sorted(texts, key=lambda text: text.row)
    shown = list(dict.fromkeys(text.row for text in rows))[:_TEXTS_SHOWN]
    return [
        {
            "row": text.row,
            "role": text.role,
            "answer": text.answer,
            "log_odds": text.log_odds,
            "words": [
                {"text": word, "part": part, "share": share, "style": _style(share, max(map(abs, text.shares)))}
                for (word, part, _), share in zip(text.words, text.shares, strict=True)
            ],
        }
        for text in rows
        if text.row in shown
    ]


def _style(share: float, largest: float) -> str:
    strength = abs(share) / largest if largest else 0.0
    colour = "0, 114, 178" if share > 0 else "213, 94, 0"
    return f"background: rgba({colour}, {0.75 * strength:.2f})"
