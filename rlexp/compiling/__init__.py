"""Functions of tensors compiled ahead of time."""
