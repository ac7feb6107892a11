"""Provenance: source files that can change a run's result, their digests, git commits and patches."""
