"""Plan the jobs of an experiment and run them."""
