"""Examples in docstrings are shown as code: Markdown would read `>>>` as a quotation."""

from __future__ import annotations

import re
from typing import Any

from griffe import Extension

_DOCTEST = re.compile(r"^( *)>>> .*(?:\n.*\S.*)*", flags=re.MULTILINE)


class Doctests(Extension):
    """Fences every example, from its first `>>>` to the next blank line."""

    def on_object(self, *, obj: Any, **_: Any) -> None:
        """Rewrite the docstring of one function, class or module, unless it has a section `Examples`."""
        if obj.docstring is not None and not re.search(r"^Examples:$", obj.docstring.value, flags=re.MULTILINE):
            obj.docstring.value = fenced(obj.docstring.value)


def fenced(text: str) -> str:
    """Text with its examples in fences of the language `pycon`."""
    return _DOCTEST.sub(lambda found: f"{found[1]}```pycon\n{found[0]}\n{found[1]}```", text)
