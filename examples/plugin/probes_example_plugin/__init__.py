"""An example of a plug-in for the package probes: a probe, a suite, a measure and a backbone, each with its option."""
