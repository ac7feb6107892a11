"""Environments: one factory for vectors of A × E copies under next-step autoreset."""

from rlexp.envs.environment import Environment

__all__ = ["Environment"]
