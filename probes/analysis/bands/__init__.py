"""Bands of layers: where a profile over layers shifts to another level, against every smooth explanation."""
