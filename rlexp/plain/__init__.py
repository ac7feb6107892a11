"""Serialisation of Python objects as plain data, and digests of values."""
