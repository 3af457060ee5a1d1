"""Figures: values in, a matplotlib figure out; nothing is computed but colours and places."""
