"""What code makes a run: its sources, their digests, git."""
