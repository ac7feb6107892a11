"""Hydra plugins: how the jobs of a multirun are made from its settings."""
