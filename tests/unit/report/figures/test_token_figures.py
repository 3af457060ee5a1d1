"""Drawings of trees and of the weights of tokens show what they were given."""

from __future__ import annotations

import numpy as np
from drawn_figures import assert_border_is_white, legend_texts
from matplotlib.patches import Arc

from probes.report.figures.token_weights import WeighedText, token_weights
from probes.report.figures.tree_drawings import DrawnTree, tree_drawings

TREE = DrawnTree(("the", "cat", "saw", "$us"), ((0, 1), (1, 2), (2, 3)), ((0, 1), (1, 3), (2, 3)), root=2)


def test_gold_edges_are_above_and_predicted_ones_below_dashed_where_wrong() -> None:
    figure = tree_drawings([TREE, TREE], title="layer 3")
    for axes in figure.axes:
        arcs = [patch for patch in axes.patches if isinstance(patch, Arc)]
        gold, predicted = ([arc for arc in arcs if arc.get_gid() == gid] for gid in ("gold", "predicted"))
        assert all(arc.theta1 == 0 for arc in gold)
        assert all(arc.theta1 == 180 for arc in predicted)
        assert [arc.get_linestyle() for arc in predicted] == ["-", "--", "-"]
        assert [text.get_text() for text in axes.texts] == ["the", "cat", "saw", r"\$us"]
        assert [text.get_fontweight() for text in axes.texts] == ["normal", "normal", "bold", "normal"]
    assert any("not in the gold tree" in text for text in legend_texts(figure))
    assert_border_is_white(figure)


def test_weights_are_shown_by_head_and_long_texts_from_their_end() -> None:
    weights = np.random.default_rng(0).dirichlet(np.ones(50), 2).T
    text = WeighedText(tuple(f"token{i}" for i in range(50)), weights, "label: yes")
    figure = token_weights([text, WeighedText(("a", "b"), np.full((2, 2), 0.5), "label: no")], title="topic, layer 4")
    panel = figure.axes[0]
    (image,) = panel.images
    np.testing.assert_allclose(np.asarray(image.get_array()), weights[-40:].T)
    assert [label.get_text() for label in panel.get_xticklabels()][-1] == "token49"
    assert "10 earlier tokens" in panel.get_title(loc="left")
    assert_border_is_white(figure)
