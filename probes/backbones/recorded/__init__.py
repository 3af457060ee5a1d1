"""Backbones whose hidden states another program has computed and written to files."""
