"""`report.html` in headless Chromium: it draws, answers to pointer and keyboard, and asks the network for nothing."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from report_samples import a_matrix, best_at, results_of

from probes.report import write_report, write_task_maps
from probes.report.csv_files import write_best_layers, write_layer_by_layer, write_results
from probes.report.figures.task_maps import TaskMap
from probes.values import LayerByLayer, Reading

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: install it, or set CHROMIUM to its path"),
]
TASKS = tuple(f"task{i:02}" for i in range(14))
LAYERS = tuple(range(31))
READING = Reading("decoder", "residual", "last")
QUANTITIES = ("macro_f1", "selectivity", "label_cka", *(f"measure{i}" for i in range(17)))


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> Path:
    """The page of a run of 14 tasks, 31 layers and 20 quantities, with pairs of layers and maps."""
    folder, rng = tmp_path_factory.mktemp("run"), np.random.default_rng(0)
    rows = []
    for quantity in QUANTITIES:
        values = rng.uniform(0.2, 1, (31, 14)) - (quantity == "selectivity")
        values[0, 0] = np.nan
        own = results_of(a_matrix(quantity, layers=LAYERS, tasks=TASKS, values=values), quantity)
        rows += [replace(row, p=0.0004, p_cell=0.0125) for row in own] if quantity == "macro_f1" else own
    write_results(rows, folder / "results.csv")
    write_best_layers(best_at(dict.fromkeys(TASKS, 12), possible=(11, 12, 13)).values(), folder / "best_layers.csv")
    pair = LayerByLayer(
        "composition/whole", "score", "task00", "a", "b", LAYERS, LAYERS, rng.uniform(size=(31, 31)), READING, 400
    )
    write_layer_by_layer(pair, folder / "layer_by_layer" / "composition_whole")
    points = TaskMap(12, rng.normal(size=(60, 2)), TASKS[:3] * 20, 0.25)
    write_task_maps([points], folder / "maps" / "base.csv")
    return write_report(folder)


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield opened
        opened.close()


class Opened:
    """The page in a window, with every error and every request to a network it made."""

    def __init__(self, browser, report: Path, *, width: int = 1280, theme: str = "light") -> None:
        self.page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=theme)
        self.errors: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.errors.append(message.text) if message.type == "error" else None)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(report.as_uri())
        self.page.wait_for_function("document.documentElement.dataset.ready === 'true'", timeout=30_000)

    def traces(self, plot: str) -> list[dict]:
        return self.page.evaluate(
            f"document.getElementById('{plot}').data.map(t => ({{type: t.type, z: t.z, x: t.x}}))"
        )


@pytest.fixture
def opened(browser, report):
    window = Opened(browser, report)
    yield window
    window.page.close()
    assert window.errors == []
    assert [url for url in window.requests if not url.startswith(("file:", "data:", "blob:"))] == []


def test_the_page_is_small(report):
    assert report.stat().st_size < 6e6


def test_all_plots_are_drawn_from_the_data(opened):
    heatmap = opened.traces("heatmap-plot")[0]
    assert (heatmap["type"], len(heatmap["z"]), len(heatmap["z"][0])) == ("heatmap", 31, 14)
    assert heatmap["z"][0][0] is None
    assert len(opened.traces("pairs-plot")[0]["z"]) == 31
    said = opened.page.get_attribute("#pairs-plot", "aria-label")
    assert said == "composition/whole of all pairs of layers of a and b, task00"
    assert [len(trace["x"]) for trace in opened.traces("map-plot")] == [20, 20, 20]


def test_pointing_at_a_cell_shows_value_interval_null_and_n(opened):
    cells = opened.page.locator("#heatmap-plot .nsewdrag").first
    cells.scroll_into_view_if_needed()
    box = cells.bounding_box()
    opened.page.mouse.move(box["x"] + 5, box["y"] + 5)
    opened.page.mouse.move(box["x"] + box["width"] / 28, box["y"] + box["height"] * (1 - 10.5 / 31))
    hover = opened.page.locator("#heatmap-plot .hoverlayer")
    hover.get_by_text("layer 10").first.wait_for(timeout=5000)
    text = hover.text_content()
    for part in ("task00", "macro_f1", "95 % over", "n 400", "p < 0.001 corrected for all cells, 0.013 alone"):
        assert part in text


def test_another_quantity_and_task_are_chosen_by_keyboard(opened):
    opened.page.focus("#quantity")
    opened.page.keyboard.press("ArrowDown")
    opened.page.wait_for_function("document.querySelector('#heatmap-plot .gtitle').textContent.includes('selectivity')")
    opened.page.focus("#next-task")
    opened.page.keyboard.press("Enter")
    assert opened.page.input_value("#task") == "task01"
    assert "task01: selectivity" in opened.page.text_content("#profile-legend")


def test_marks_are_switched_off_and_each_task_gets_its_own_range(opened):
    count = "document.getElementById('heatmap-plot').layout.shapes.length"
    assert opened.page.evaluate(count) == 14 * 4  # a frame and three bars each
    opened.page.uncheck("#marks")
    assert opened.page.evaluate(count) == 0
    opened.page.check("#columns")
    columns = np.array(opened.traces("heatmap-plot")[0]["z"], dtype=float)[1:, 1:]
    np.testing.assert_allclose([columns.min(), columns.max()], [0, 1], atol=0.05)


def test_the_numbers_are_a_table_too(opened):
    opened.page.click("#numbers summary")
    rows = opened.page.locator("#numbers-table tbody tr")
    rows.first.wait_for()
    assert rows.count() == 31


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_theme_follows_the_system_and_the_button(browser, report, theme):
    window = Opened(browser, report, theme=theme)
    paper = "getComputedStyle(document.body).backgroundColor"
    before = window.page.evaluate(paper)
    assert before == {"light": "rgb(255, 255, 255)", "dark": "rgb(21, 24, 28)"}[theme]
    window.page.click("#theme")
    assert window.page.evaluate(paper) != before
    assert window.page.evaluate("document.getElementById('heatmap-plot').layout.paper_bgcolor") != before
    window.page.close()


def test_a_phone_need_not_scroll_sideways(browser, report):
    window = Opened(browser, report, width=390)
    assert window.page.evaluate("document.documentElement.scrollWidth") <= 390
    window.page.close()
