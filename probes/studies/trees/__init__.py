"""The study of trees: what probes decode of them, and what activations and attention hold of them without labels."""
