"""Compare the runs of a study: which arm is better, by how much, and how certain that is."""
