"""Contracts of objectives and networks, checked before the first step."""
