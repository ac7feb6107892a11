"""Errors whose message is meant for the person at the keyboard: one line, with a way out."""


class UserError(Exception):
    """Something the user can mend. Shown as one line, without a traceback, with exit code 1."""


class ConfigError(UserError):
    """A setting that cannot be: the message names the key, the value and what would do."""


class CheckpointError(UserError):
    """A checkpoint that is missing, damaged, foreign or does not fit the run."""


class DivergedError(UserError):
    """A NaN or an infinity in the update: names the update, the seed and the metric."""
