"""A model larger than memory: its blocks are read from disk one at a time, once for all batches that wait for it."""
