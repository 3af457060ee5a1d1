"""Words of prompts in colours: the file reads back as it was, and no text of a prompt becomes part of the page."""

from __future__ import annotations

import pytest

from probes.report import AttributedText, read_attributions, write_attributions, write_report, write_results
from probes.report.attributions import coloured_texts
from probes.values import Result

HOSTILE = '<script>alert("x")</script>'
TEXTS = [
    AttributedText(0, "", "glad", 1.5, (("so", "instruction", 0.5), (HOSTILE, "input", -1.5))),
    AttributedText(1, "", "sad", -0.25, (("no,", "input", 0.0),)),
    AttributedText(0, "reference", "glad", 0.5, (("so", "instruction", 0.25), (HOSTILE, "input", 0.75))),
]


def test_the_file_reads_back_as_it_was_written(tmp_path):
    path = write_attributions("a task / of mine", TEXTS, tmp_path)
    assert read_attributions(path) == TEXTS
    assert path.parent == tmp_path


def test_colours_say_the_sign_and_the_share_and_models_stand_below_each_other():
    shown = coloured_texts(TEXTS)
    assert [(text["row"], text["role"]) for text in shown] == [(0, ""), (0, "reference"), (1, "")]
    weak, strong = shown[0]["words"]
    assert (weak["share"], strong["share"]) == (0.25, -0.75)
    assert weak["style"] == "background: rgba(0, 114, 178, 0.25)"
    assert strong["style"] == "background: rgba(213, 94, 0, 0.75)"
    assert shown[2]["words"][0]["share"] == 0.0


def test_a_words_text_is_escaped_on_the_page(tmp_path):
    write_results([Result(study="attribute", metric="attribution/share/input", task="t", value=0.5)],
                  tmp_path / "results.csv")  # fmt: skip
    write_attributions("t", TEXTS, tmp_path / "attributions")
    page = write_report(tmp_path).read_text()
    assert HOSTILE not in page
    assert "&lt;script&gt;alert(&#34;x&#34;)&lt;/script&gt;" in page
    assert page.count('<p class="words">') == 3


@pytest.mark.parametrize("values", [(), (("a", "input", 0.0),)])
def test_a_text_without_contributions_has_no_shares_above_zero(values):
    assert not any(AttributedText(0, "", "x", 0.0, values).shares)
