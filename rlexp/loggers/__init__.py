"""Experiment trackers that a run's records are sent to, besides its folder."""
