"""Algorithms: one objective a file, each a dataclass of its hyperparameters."""

from rlexp.algos.base import Algorithm, Batch, Metrics

__all__ = ["Algorithm", "Batch", "Metrics"]
