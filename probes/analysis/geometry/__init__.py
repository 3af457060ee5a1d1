"""The geometry of one layer's rows: spectra, intrinsic dimension, anisotropy."""
