from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
from matplotlib import rc_context
from matplotlib.image import imread
from report_samples import a_matrix

from probes.report import heatmap, profiles, save_png
from probes.report.pictures import Drawing, save_pictures


def drawings(folder: Path, count: int = 6) -> dict[Path, Drawing]:
    figures = (heatmap, profiles)
    matrices = [a_matrix(values=np.full((4, 3), 0.1 * number), notes={(0, "sst2"): "why"}) for number in range(count)]
    return {folder / f"{n}.png": partial(figures[n % 2], matrix) for n, matrix in enumerate(matrices)}


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


class TestPictures:
    def test_helpers_leave_the_same_files(self, tmp_path):
        save_pictures(drawings(tmp_path / "alone"), helpers=0)
        save_pictures(drawings(tmp_path / "helped"), helpers=2)
        assert len(contents(tmp_path / "alone")) == 6
        assert contents(tmp_path / "helped") == contents(tmp_path / "alone")

    def test_helpers_draw_in_the_style_set_here(self, tmp_path):
        with rc_context({"axes.facecolor": "yellow"}):
            save_pictures(drawings(tmp_path / "alone"), helpers=0)
            save_pictures(drawings(tmp_path / "helped"), helpers=1)
        save_pictures(drawings(tmp_path / "plain"), helpers=0)
        assert contents(tmp_path / "helped") == contents(tmp_path / "alone")
        assert contents(tmp_path / "helped") != contents(tmp_path / "plain")

    @pytest.mark.parametrize("place", [0, -1])  # the last is a helper's first
    def test_an_error_is_raised_here_whoever_met_it(self, tmp_path, place):
        broken = partial(heatmap, a_matrix(layers=(), tasks=(), values=np.empty((0, 0))))
        wanted = drawings(tmp_path)
        wanted[list(wanted)[place]] = broken
        with pytest.raises(ValueError, match="has no cells to draw"):
            save_pictures(wanted, helpers=1)

    def test_what_cannot_be_handed_over_is_drawn_here(self, tmp_path):
        matrix = a_matrix()
        save_pictures({tmp_path / f"{n}.png": lambda: heatmap(matrix) for n in range(3)}, helpers=1)
        assert len(set(contents(tmp_path).values())) == 1
        assert len(contents(tmp_path)) == 3


class TestSavePng:
    def test_it_draws_what_savefig_draws(self, tmp_path):
        ours = save_png(profiles(a_matrix()), tmp_path / "ours.png")
        profiles(a_matrix()).savefig(tmp_path / "theirs.png")
        np.testing.assert_array_equal(imread(ours), imread(tmp_path / "theirs.png"))
