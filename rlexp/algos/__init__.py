"""Algorithms: one objective per file, each a dataclass of its hyperparameters."""
