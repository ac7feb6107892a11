"""Algorithms: one objective a file, each a dataclass of its hyperparameters."""
