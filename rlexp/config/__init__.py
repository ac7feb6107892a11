"""The schema of settings, their checks, and one-line errors of the command line."""
