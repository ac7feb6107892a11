"""Studies: read runs, show the status of jobs, remove them."""
