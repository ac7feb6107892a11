"""Files of a run's folder: run.json, metrics.csv, checkpoint, lock."""
