"""The probes of many layers as one module, trained by minibatches."""
