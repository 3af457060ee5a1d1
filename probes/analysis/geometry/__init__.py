"""The geometry of one layer's rows: covariance spectrum, intrinsic dimension, anisotropy."""
