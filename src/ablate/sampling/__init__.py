"""Drawing responses from a model and selecting K of N; empty so that `select` needs no torch."""
