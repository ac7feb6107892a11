"""Hydra plugins: sweepers that make the jobs of a multirun, and launchers that run them."""
