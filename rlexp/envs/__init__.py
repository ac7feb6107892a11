"""Environments: vectors of A × E copies under next-step autoreset, behind one factory."""

from rlexp.envs.environment import Environment

__all__ = ["Environment"]
