"""Who is better, by how much, how sure: a verdict on the runs of a study."""
