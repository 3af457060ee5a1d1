"""Comparisons between tasks: how separable they are, what is specific to one of them, and what tuning gained."""
