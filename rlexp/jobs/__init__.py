"""A job, and the earlier run that it starts from or extends."""
