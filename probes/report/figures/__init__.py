"""Figures: each function takes values and returns a matplotlib figure; it computes colours and positions only."""
