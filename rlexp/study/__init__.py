"""Runs read back, how jobs stand, and removing them."""
