"""Linear probes of many layers, solved to a certified optimum."""
