"""From an experiment to its jobs, and from a job to its outcome."""
