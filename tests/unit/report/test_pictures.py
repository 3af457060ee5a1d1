from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest
from matplotlib import rc_context
from matplotlib.image import imread
from report_samples import a_matrix

from probes.report import heatmap, profiles, save_png
from probes.report.pictures import Drawing, save_pictures
from probes.values import Layer

ROOT = Path(__file__).parents[3]


def drawings(folder: Path, count: int = 6) -> dict[Path, Drawing]:
    notes: Mapping[tuple[Layer, str], str] = MappingProxyType({(0, "sst2"): "why"})  # read-only, as in a run
    matrices = [a_matrix(values=np.full((4, 3), 0.1 * number), notes=notes) for number in range(count)]
    figures = (heatmap, profiles)
    return {folder / f"{n}.png": partial(figures[n % 2], matrix) for n, matrix in enumerate(matrices)}


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.slow
class TestSavePictures:
    def test_several_processes_draw_the_same_files_as_one(self, tmp_path):
        save_pictures(drawings(tmp_path / "one"), workers=1)
        save_pictures(drawings(tmp_path / "two"), workers=2)
        assert len(contents(tmp_path / "one")) == 6
        assert contents(tmp_path / "two") == contents(tmp_path / "one")

    def test_every_process_draws_in_the_style_that_is_set_here(self, tmp_path):
        save_pictures(drawings(tmp_path / "plain"), workers=2)
        with rc_context({"axes.facecolor": "yellow"}):
            save_pictures(drawings(tmp_path / "one"), workers=1)
            save_pictures(drawings(tmp_path / "two"), workers=2)
        assert contents(tmp_path / "two") == contents(tmp_path / "one")
        assert contents(tmp_path / "two") != contents(tmp_path / "plain")

    @pytest.mark.parametrize("workers", [1, 2])
    def test_an_error_is_the_same_whichever_process_draws(self, tmp_path, workers):
        broken = {tmp_path / "broken.png": partial(heatmap, a_matrix(layers=(), tasks=(), values=np.empty((0, 0))))}
        with pytest.raises(ValueError, match="has no cells to draw"):
            save_pictures(drawings(tmp_path) | broken, workers=workers)

    def test_functions_without_a_name_are_drawn_too(self, tmp_path):
        matrix = a_matrix()
        save_pictures({tmp_path / f"{n}.png": lambda: heatmap(matrix) for n in range(3)}, workers=2)
        assert len(contents(tmp_path)) == 3
        assert len(set(contents(tmp_path).values())) == 1

    def test_a_script_without_main_guard_runs_once(self, tmp_path):
        (tmp_path / "script.py").write_text(
            "print('the script runs')\n"
            "from functools import partial\n"
            "from pathlib import Path\n"
            "from report_samples import a_matrix\n"
            "from probes.report import heatmap\n"
            "from probes.report.pictures import save_pictures\n"
            "save_pictures({Path(f'{n}.png'): partial(heatmap, a_matrix()) for n in range(2)}, workers=2)\n"
        )
        environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
        printed = subprocess.check_output([sys.executable, "script.py"], cwd=tmp_path, env=environment, text=True)
        assert printed == "the script runs\n"
        assert {path.name for path in tmp_path.glob("*.png")} == {"0.png", "1.png"}


class TestSavePng:
    def test_it_draws_what_savefig_draws(self, tmp_path):
        ours = save_png(profiles(a_matrix()), tmp_path / "ours.png")
        profiles(a_matrix()).savefig(tmp_path / "theirs.png")
        np.testing.assert_array_equal(imread(ours), imread(tmp_path / "theirs.png"))
