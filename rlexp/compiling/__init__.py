"""Ahead-of-time compilation of functions of tensors."""
