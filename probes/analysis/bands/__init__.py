"""Bands of layers: level shifts of a profile over layers that trends and autocorrelated noise do not explain."""
